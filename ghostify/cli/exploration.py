"""The commands that explore accuracy against size."""

import difflib
import json
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.files import read_settings
from ..errors import ArgumentError, GhostifyError
from .arguments import parse_numbers
from .networks import make_network, trained_network
from .option_groups import Group, NetworkOptions, with_option_groups
from .options import Cheap, DwSize, Images, Json, MostImages
from .output import check_figure, print_report, save_figure

if TYPE_CHECKING:
    from torch import nn

    from ..exploration.sweep_result import SweepResult


Setting = Any
"""A value as it stands in a YAML file."""


@with_option_groups
def sensitivity(
    *,
    images: Images,
    out: Annotated[Path, typer.Option(help="JSON file to write; what stands there already is not measured again.")],
    network: Annotated[NetworkOptions, Group()],
    ratios: Annotated[str, typer.Option(help="To be tried, with commas between them.")] = "1.5,2,3,4",
    method: Annotated[
        str, typer.Option(help="site_by_site, for Ghost modules; or one_pass, for absorbed ghosts.")
    ] = "site_by_site",
    dw_size: DwSize = 3,
    cheap: Cheap = "auto",
    max_images: MostImages = 64,
    workers: Annotated[int, typer.Option(help="Processes that share the sites out.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw a heat map into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure what each site loses at each ratio, for --target of the other commands.

    Examples:

        ghostify sensitivity resnet50 --pretrained --images pictures/ --out resnet50.json

        ghostify convert resnet50 --pretrained --cheap auto --target flops=0.5 --sensitivity resnet50.json --out s.safetensors
    """
    from ..exploration.sensitivity import sensitivity as measure_sites

    original = trained_network(network, out)
    check_figure(plot)
    table = measure_sites(
        original.eval(),
        images,
        parse_numbers("--ratios", ratios),
        method=method,
        cheap=cheap,
        dw_size=dw_size,
        max_images=max_images,
        out=out,
        workers=workers,
        progress=sys.stderr.isatty(),
    )
    if plot is not None:
        save_figure(table.plot, plot)
    print_report(table, as_json, written=out)


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML: model, images, val, out and grid; examples/sweep.yaml shows all of it.")],
    retry: Annotated[bool, typer.Option(help="Run trials again that failed before.")] = False,
    as_json: Json = False,
) -> None:
    """Try every combination of settings; what is done already is not done again.

    Examples:

        ghostify sweep sweep.yaml

        ghostify pareto sweep/
    """
    from ..exploration.sweep import sweep as run_sweep

    settings = SweepFile.read(file)
    result = run_sweep(
        settings.models(),
        settings.grid,
        **settings.options(),
        retry=retry,
        progress=sys.stderr.isatty(),
    )
    if as_json:
        print(json.dumps(json.loads(result.to_frame().to_json(orient="records"))))
    else:
        print(result)
    _check_success(result)


def pareto(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    cost: Annotated[str, typer.Option(help="flops, params or latency.")] = "flops",
    plot: Annotated[Path | None, typer.Option(help="Also draw accuracy against cost into this file.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write a page with an interactive plot and the table.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the table of all trials.")] = None,
    as_json: Json = False,
) -> None:
    """Show the trials of a sweep that no other beats.

    Examples:

        ghostify pareto sweep/ --plot front.png --page sweep.html
    """
    from ..exploration.sweep_result import SweepResult

    check_figure(plot)
    result = SweepResult.load(folder)
    front = result.pareto(cost)
    if plot is not None:
        save_figure(lambda: result.plot(cost), plot)
    if page is not None:
        result.to_html(page)
    if csv is not None:
        result.to_csv(csv)
    if as_json:
        print(front.to_json(orient="records"))
    else:
        print(front.drop(columns="error").to_string(index=False) if len(front) else "")
        print(f"\n{result.summary()}")
    _check_success(result)


@dataclass(frozen=True)
class SweepFile:
    """The settings of a sweep in a YAML file. Values are as they stand there: :func:`ghostify.sweep` checks them."""

    images: Setting
    val: Setting
    out: Setting
    grid: Setting
    model: Setting = None
    factory: Setting = None
    weights: Setting = None
    train: Setting = None
    engine: Setting = "local"
    workers: Setting = 1
    resources: Setting = None
    address: Setting = None

    @classmethod
    def read(cls, file: Path) -> "SweepFile":
        """Read the file.

        Raises:
            ArgumentError: it can't be read, has a setting that there is not, or lacks one that must be there.
        """
        settings = read_settings(file, "sweep")
        known = [setting.name for setting in fields(cls)]
        for key in settings:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ArgumentError(f"sweep {str(file)!r} has the unknown setting {key!r}{hint}")
        for setting in fields(cls):
            if setting.default is MISSING and setting.name not in settings:
                raise ArgumentError(f"sweep {str(file)!r} lacks {setting.name!r}")
        return cls(**settings)

    def options(self) -> dict[str, Setting]:
        """The settings but for models and grid, by the names that :func:`ghostify.sweep` has for them."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "factory", "weights", "grid")}

    def models(self) -> "nn.Module | str | dict[str, nn.Module | str]":
        """A model with its weights; or a name or several of them by name, whose pretrained weights are taken.

        Raises:
            ArgumentError, ArgumentTypeError: no model, more than one where weights are given, or one that can't be built.
        """
        from ..students.weights import load_weights

        if self.weights is None and self.factory is None:
            if isinstance(self.model, list):
                return {name: name for name in self.model}
            if not isinstance(self.model, str):
                raise ArgumentError("give a model by name, several in a list, or a factory")
            return self.model
        if self.model is not None and self.factory is not None:
            raise ArgumentError("give either model or factory, not both")
        network = make_network(NetworkOptions(model=self.model, factory=self.factory))
        if self.weights is not None:
            load_weights(network, self.weights)
        return network


def _check_success(result: "SweepResult") -> None:
    """A command that came to nothing must not look like one that went well.

    Raises:
        GhostifyError: all students of the sweep failed.
    """
    from ..exploration.trial import Trial

    students = [trial for trial in result.results if not Trial(trial.settings).is_original]
    if students and all(trial.error for trial in students):
        raise GhostifyError(f"no trial has succeeded: {students[0].error}")
