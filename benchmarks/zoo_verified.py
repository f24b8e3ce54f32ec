"""Convert the models of timm and torchvision with values, so that the rehearsal runs, and write results/zoo_verified.csv.

    python -m benchmarks.zoo_verified --up-to 100e6       # parameters; smallest first; run again to go on where it stopped
    python -m benchmarks.zoo_verified --only 'timm/resnet*' --out /tmp/zoo_verified.csv

``benchmarks.zoo`` builds its models on the meta device, where nothing can be run. Here those that it converted are built on the
CPU: large parameters, whose initialisation takes most of the time, are drawn from one uniform distribution each, all else is
what the constructor makes of it. Each is converted at s = 2 with default settings, with the rehearsal and without: a row tells
what the rehearsal says, which sites it leaves dense that are converted without it, and what both take in CPU seconds.
"""

import argparse
import json
import math
import statistics
import time
import warnings
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import ghostify
import ghostify.conversion.convert
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.every_model import Row, by_model, fill
from benchmarks.harness.markdown import table
from benchmarks.harness.results import RESULTS, read_csv
from benchmarks.zoo import libraries
from ghostify.common.copying import copy_to_meta
from ghostify.conversion.rehearsal import Rehearsal
from ghostify.students.conversion_recipe import ConversionRecipe, SiteRecord, recipe_of

LARGE = 1 << 14  # values of a parameter

PLAIN = ("fill_", "zero_", "zeros_", "ones_", "constant_")  # ways to set a whole parameter that cost little


@dataclass
class Verified:
    """A row of the table.

    ``reason``: of a refusal or failure. ``dense``: names of the sites that the rehearsal leaves dense, by reason. ``changed``:
    names of the sites that take in less of what follows them. ``seconds_without`` and ``converted_without``: of a conversion
    without the rehearsal.
    """

    model: str
    reason: str = ""
    verdict: str = ""
    params: int | None = None
    converted: int | None = None
    converted_without: int | None = None
    dense: str = ""
    changed: str = ""
    seconds: float | None = None
    seconds_without: float | None = None


def no_rehearsal(network: nn.Module, *arguments: object) -> Rehearsal:
    """A rehearsal that runs nothing, as of a network without values."""
    return Rehearsal(copy_to_meta(network), inplace=False)


class QuickInitialisation(TorchFunctionMode):
    """While it is active, random values of large parameters are not drawn; :meth:`fill` gives them some."""

    def __init__(self) -> None:
        super().__init__()
        self.unset: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        name = getattr(func, "__name__", "")
        changes = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if not changes or not isinstance(tensor, nn.Parameter) or tensor.numel() < LARGE or tensor.is_meta:
            return func(*args, **kwargs)
        if name in PLAIN:
            self.unset.pop(id(tensor), None)
            return func(*args, **kwargs)
        if name == "copy_" and id(tensor) not in self.unset:
            return func(*args, **kwargs)
        self.unset[id(tensor)] = tensor
        return tensor

    def fill(self) -> None:
        """Draw the values, as wide as keeps the size of what passes through a layer and a ReLU."""
        for tensor in self.unset.values():
            bound = math.sqrt(6 * tensor.shape[0] / tensor.numel())
            with torch.no_grad():
                tensor.uniform_(-bound, bound)


def build(name: str) -> nn.Module:
    """A model with values, on the CPU, in evaluation mode."""
    torch.manual_seed(0)
    quick = QuickInitialisation()
    with quick:
        model = ghostify.create_model(name)
    quick.fill()
    return model.eval()


def examine(name: str) -> Verified:
    """Convert one model with the rehearsal and without."""
    torch.set_num_threads(1)
    outcome = Verified(name)
    try:
        model = build(name)
        outcome.params = sum(p.numel() for p in model.parameters())
        ghostify.convert("timm/test_resnet")  # imports, and caches of constants
        with patch.object(ghostify.conversion.convert, "Rehearsal", no_rehearsal):
            before, outcome.seconds_without = conversion(model)
        after, outcome.seconds = conversion(model)
        outcome.verdict = after.verified
        outcome.converted, outcome.converted_without = (sum(s.converted for s in r.sites) for r in (after, before))
        compare({site.name: site for site in before.sites}, after, outcome)
    except Exception as error:  # the row records whatever happened
        outcome.reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
    return outcome


def conversion(model: nn.Module) -> tuple[ConversionRecipe, float]:
    """The record of a conversion, and CPU seconds."""
    start = time.process_time()
    student = ghostify.convert(model)
    seconds = time.process_time() - start
    recipe = recipe_of(student)
    assert recipe is not None
    return recipe, round(seconds, 2)


def compare(before: dict[str, SiteRecord], after: ConversionRecipe, outcome: Verified) -> None:
    """Write into the outcome which sites are others with the rehearsal."""
    dense: dict[str, list[str]] = {}
    changed = []
    for site in after.sites:
        other = before.get(site.name)
        if not site.converted and (other is None or other.converted):
            dense.setdefault(str(site.reason), []).append(site.name)
        elif site.converted and other is not None and (site.norm, site.act) != (other.norm, other.act):
            changed.append(site.name)
    outcome.dense, outcome.changed = (json.dumps(found) if found else "" for found in (dense, changed))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", default="*", help="glob over names such as timm/resnet*")
    parser.add_argument("--up-to", type=float, default=math.inf, metavar="PARAMS", help="leave larger models out")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo_verified.csv")
    parser.add_argument("--workers", type=int, default=2)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    rows = fill(names(args), args.out, examine, Verified, args.workers)
    print(*summary(rows, by_model(RESULTS / "zoo.csv")), sep="\n")


def names(args: argparse.Namespace) -> list[str]:
    """Those that results/zoo.csv has as converted, smallest first."""
    converted = [row for row in read_csv(RESULTS / "zoo.csv") if row["status"] == "converted"]
    sizes = {row["model"]: int(row["params_before"]) for row in converted if fnmatchcase(row["model"], args.only)}
    return sorted((name for name, size in sizes.items() if size <= args.up_to), key=lambda name: sizes[name])


def summary(rows: list[Row], before: dict[str, Row]) -> list[str]:
    """Sentences on the rows, and a line for each that is not as it should be."""
    lines = [f"{len(rows)} models, {sum(row['verdict'].startswith('verified') for row in rows)} verified"]
    for row in rows:
        if row["reason"]:
            lines.append(f"  refused: {row['model']} {row['reason']}")
        elif not row["verdict"].startswith("verified"):
            lines.append(f"  {row['model']} {row['verdict']}")
        if row["dense"] or row["changed"]:
            lines.append(f"  stays dense: {row['model']} {row['dense'][:300]}, or in part: {row['changed'][:300]}")
        if row["converted"] and row["converted"] != before[row["model"]]["converted"]:
            lines.append(f"  {row['model']} converted {row['converted']}, before {before[row['model']]['converted']}")
    return lines


def tables() -> dict[str, str]:
    rows = read_csv(RESULTS / "zoo_verified.csv")
    header = [
        "library",
        "models converted with values",
        "verified",
        "not verified",
        "refused",
        "with sites that stay dense for it",
    ]
    header += ["median s of convert without it", "with it"]
    lines: list[list[str]] = []
    for library in libraries(rows):
        done = [row for row in library.rows if not row["reason"]]
        verified = sum(row["verdict"].startswith("verified") for row in done)
        counts = [
            len(library.rows),
            verified,
            len(done) - verified,
            len(library.rows) - len(done),
            sum(bool(r["dense"]) for r in done),
        ]
        seconds = [statistics.median(float(row[key]) for row in done) for key in ("seconds_without", "seconds")]
        lines.append([library.name, *map(str, counts), *(f"{value:.2f}" for value in seconds)])
    converted = sum(row["status"] == "converted" for row in read_csv(RESULTS / "zoo.csv"))
    largest = max(int(row["params"]) for row in rows if row["params"]) / 1e6
    note = f"{len(rows)} of the {converted} that have something to convert, the largest of {largest:.0f} M parameters."
    return {"zoo_verified": "\n".join([table(header, lines), "", note])}


if __name__ == "__main__":
    main()
