"""The commands that explore accuracy against size."""

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.files import read_settings
from ..errors import ArgumentError, GhostifyError
from .arguments import make_network
from .options import Json
from .output import check_figure, save_figure

SETTINGS = (
    "model", "factory", "weights", "images", "val", "train", "out", "grid", "engine", "workers", "resources", "address",
)  # fmt: skip


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

    settings = _read(file)
    found = run_sweep(
        _model(settings), settings["grid"], images=settings["images"], val=settings["val"], out=settings["out"],
        train=settings.get("train"), engine=settings.get("engine", "local"), workers=settings.get("workers", 1),
        resources=settings.get("resources"), address=settings.get("address"), retry=retry, progress=sys.stderr.isatty(),
    )  # fmt: skip
    _tell(found, as_json)
    _check_any(found)


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

    if plot is not None:
        check_figure(plot)
    found = SweepResult.load(folder)
    front = found.pareto(cost)
    if plot is not None:
        save_figure(lambda: found.plot(cost), plot)
    if page is not None:
        found.to_html(page)
    if csv is not None:
        found.to_csv(csv)
    if as_json:
        print(front.to_json(orient="records"))
    else:
        print(front.drop(columns="error").to_string(index=False) if len(front) else "")
        print(f"\n{found.summary()}")
    _check_any(found)


def _read(file: Path) -> dict[str, Any]:
    settings = read_settings(file, "sweep")
    for key in settings:
        if key not in SETTINGS:
            close = difflib.get_close_matches(str(key), SETTINGS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ArgumentError(f"sweep {str(file)!r} has the unknown setting {key!r}{hint}")
    for key in ("images", "val", "out", "grid"):
        if key not in settings:
            raise ArgumentError(f"sweep {str(file)!r} lacks {key!r}")
    return settings


def _model(settings: Mapping[str, Any]) -> Any:
    """A model with its weights; or names, whose pretrained weights are taken."""
    from ..students.weights import load_weights

    model, factory, weights = (settings.get(key) for key in ("model", "factory", "weights"))
    if weights is None and factory is None:
        if isinstance(model, list):
            return {name: name for name in model}
        if not isinstance(model, str):
            raise ArgumentError("give a model by name, several in a list, or a factory")
        return model
    if model is not None and factory is not None:
        raise ArgumentError("give either model or factory, not both")
    network = make_network(model, factory)
    if weights is not None:
        load_weights(network, weights)
    return network


def _check_any(found: Any) -> None:
    """A command that came to nothing must not look like one that went well."""
    from ..exploration.trial import Trial

    students = [result for result in found.results if not Trial(result.settings).is_original]
    if students and all(result.error for result in students):
        raise GhostifyError(f"no trial has succeeded: {students[0].error}")


def _tell(found: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(json.loads(found.to_frame().to_json(orient="records"))))
    else:
        print(found)
