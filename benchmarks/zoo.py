"""Convert every model of timm and torchvision, and write what happened to results/zoo.csv.

    python -m benchmarks.zoo                 # all, two processes; run again to go on where it stopped
    python -m benchmarks.zoo --only 'timm/resnet*' --out /tmp/zoo.csv

A model is built on the meta device where its code allows that, converted at s = 2 with the default settings, and both
are run once. A row tells whether the outputs have equal structure and shapes (of detectors, whose number of boxes depends
on values, everything but that number) and which share of the FLOPs of dense convolutions, the first aside, was reached.
"""

import json
import logging
import time
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.every_model import Row, build, family_of, fill, is_mostly_convolution
from benchmarks.harness.markdown import table
from benchmarks.harness.results import RESULTS, read_csv
from ghostify.common.costs import measure
from ghostify.inputs.examples import example_input

ENOUGH = 0.95  # of the FLOPs of dense convolutions


@dataclass
class Outcome:
    """A row of the table. ``status``: converted, nothing (to convert), or error."""

    model: str
    status: str = "error"
    reason: str = ""
    mostly_convolution: bool | None = None
    sites: int = 0
    converted: int = 0
    skipped: str = ""
    reached: float | None = None
    params_before: int | None = None
    params_after: int | None = None
    flops_before: int | None = None
    flops_after: int | None = None
    structure_equal: bool | None = None
    shapes_equal: bool | None = None
    meta: bool = True
    seconds: float = 0.0


def examine(name: str) -> Outcome:
    """Convert one model and compare."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    outcome = Outcome(name)
    try:
        model, outcome.meta = build(name)
        outcome.params_before = sum(p.numel() for p in model.parameters())
        outcome.mostly_convolution = is_mostly_convolution(model)
        try:
            student = ghostify.convert(model)
        except ghostify.UnsupportedModelError as error:
            outcome.status, outcome.reason = "nothing", str(error)
        else:
            compare(name, model, student, outcome)
            outcome.status = "converted"
    except Exception as error:  # the row records whatever happened
        outcome.reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        logging.debug("%s", traceback.format_exc())
    outcome.seconds = round(time.perf_counter() - start, 2)
    return outcome


def compare(name: str, model: torch.nn.Module, student: torch.nn.Module, outcome: Outcome) -> None:
    """Write into the outcome what both return and cost."""
    arguments = example_input(model)
    try:
        before = measure(model, arguments)
    except ghostify.ArgumentError:
        if not outcome.meta:
            raise
        # its forward needs values: once more with some
        outcome.meta = False
        model = ghostify.create_model(name).eval()
        student = ghostify.convert(model)
        before = measure(model, arguments)
    after = measure(student, arguments)
    boxes = "torchvision.models.detection" in type(model).__module__
    outcome.structure_equal, outcome.shapes_equal = same(before.output, after.output, boxes)
    report = ghostify.report(student)
    outcome.sites, outcome.converted = len(report.rows), len(report.converted)
    outcome.skipped = json.dumps({reason: len(names) for reason, names in report.skipped.items()})
    outcome.reached = None if report.reached is None else round(report.reached, 4)
    outcome.params_after = report.after.params
    outcome.flops_before, outcome.flops_after = before.flops, report.after.flops


def same(before: Any, after: Any, boxes: bool) -> tuple[bool, bool]:
    """Whether two outputs have the same structure, and their tensors the same shapes and types."""
    first, structure = tree_flatten(before)
    second, other = tree_flatten(after)
    if structure != other:
        return False, False

    def shape(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return type(value)
        return tuple(value.shape[1 if boxes else 0 :]), value.dtype

    return True, all(shape(a) == shape(b) for a, b in zip(first, second, strict=True))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", default="*", help="glob over names such as timm/resnet*")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.csv")
    parser.add_argument("--sample", type=Path, help="also write the smallest converted model of each family into this file")
    parser.add_argument("--workers", type=int, default=2)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    names = [name for name in ghostify.list_models() if fnmatchcase(name, args.only)]
    rows = fill(names, args.out, examine, Outcome, args.workers)
    if args.sample:
        converted = (row for row in rows if row["status"] == "converted")
        sample = sorted(row["model"] for row in smallest_of_families(converted).values())
        args.sample.write_text("".join(f"{name}\n" for name in sample))
    print(*summary(rows), sep="\n")


def smallest_of_families(rows: Iterable[Row]) -> dict[str, Row]:
    """The row of fewest parameters for each family; a family is a file of the library."""
    smallest: dict[str, Row] = {}
    for row in rows:
        family = family_of(row["model"])
        if family not in smallest or int(row["params_before"]) < int(smallest[family]["params_before"]):
            smallest[family] = row
    return smallest


@dataclass(frozen=True)
class Library:
    """What became of the models of one library."""

    name: str
    rows: list[Row]

    def of_status(self, status: str) -> list[Row]:
        return [row for row in self.rows if row["status"] == status]

    @property
    def different(self) -> list[Row]:
        """Converted, but with outputs of another structure or shape."""
        return [row for row in self.of_status("converted") if not row["structure_equal"] == row["shapes_equal"] == "True"]

    @property
    def mostly_convolution(self) -> list[Row]:
        return [row for row in self.rows if row["mostly_convolution"] == "True"]

    @property
    def short(self) -> list[Row]:
        return [row for row in self.mostly_convolution if not row["reached"] or float(row["reached"]) < ENOUGH]


def libraries(rows: list[Row]) -> list[Library]:
    return [Library(name, [row for row in rows if row["model"].startswith(name)]) for name in ("timm", "torchvision")]


def summary(rows: list[Row]) -> list[str]:
    lines = []
    for library in libraries(rows):
        if not library.rows:
            continue
        converted, nothing, errors = (library.of_status(status) for status in ("converted", "nothing", "error"))
        mostly, short = library.mostly_convolution, library.short
        lines.append(
            f"{library.name}: {len(library.rows)} models, {len(converted)} converted "
            f"({len(converted) - len(library.different)} with equal outputs), {len(nothing)} with nothing to convert, "
            f"{len(errors)} errors; of {len(mostly)} that are mostly convolutions {len(mostly) - len(short)} reached 95 %"
        )
        lines += [f"  short: {row['model']} {row['reached'] or row['reason']} {row['skipped']}" for row in short]
        lines += [f"  error: {row['model']} {row['reason']}" for row in errors]
        lines += [f"  output differs: {row['model']}" for row in library.different]
    lines.append(f"{sum(float(row['seconds']) for row in rows) / 60:.1f} minutes of work in all")
    return lines


def tables() -> dict[str, str]:
    lines: list[list[str]] = []
    short: list[str] = []
    for library in libraries(read_csv(RESULTS / "zoo.csv")):
        converted, nothing, errors = (len(library.of_status(status)) for status in ("converted", "nothing", "error"))
        equal, mostly = converted - len(library.different), len(library.mostly_convolution)
        counts = [len(library.rows), converted, equal, nothing, errors, mostly, mostly - len(library.short)]
        lines.append([library.name, *map(str, counts)])
        for row in library.short:
            short.append(f"- {row['model']}: {float(row['reached'] or 0):.1%} ({reasons(row)})")
    header = ["library", "models", "converted", "outputs of equal structure and shape", "nothing to convert", "errors"]
    header += ["mostly convolutions", "of those, 95 % of dense-convolution FLOPs reached"]
    note = """"Nothing to convert" to Ghost modules are networks whose only convolution is the first; absorbed ghosts narrow
fully connected pairs in most of them ([what they reach](docs/architecture.md#what-absorbed-ghosts-reach)). Short of 95 %:"""
    return {"zoo": "\n".join([table(header, lines), "", note, "", *short])}


def reasons(row: Row) -> str:
    """Why sites were left, those aside that no conversion takes."""
    plain = ("first convolution", "depthwise", "works on a globally")
    counts = json.loads(row["skipped"] or "{}")
    return ", ".join(f"{n} {reason}" for reason, n in counts.items() if not reason.startswith(plain)) or row["reason"]


if __name__ == "__main__":
    main()
