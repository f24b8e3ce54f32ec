"""Convert every model of timm and torchvision, and write what happened to results/zoo.csv.

    python -m benchmarks.zoo                 # all, two processes; run again to go on where it stopped
    python -m benchmarks.zoo --only 'timm/resnet*' --out /tmp/zoo.csv

A model is built on the meta device where its code allows that, converted at s = 2 with the default settings, and both
are run once. A row tells whether the outputs have equal structure and shapes (of detectors, whose number of boxes depends
on values, everything but that number) and which share of the FLOPs of dense convolutions, the first aside, was reached.
"""

import argparse
import csv
import json
import logging
import os
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


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
    import torch

    import ghostify

    torch.set_num_threads(1)
    start = time.perf_counter()
    outcome = Outcome(name)
    try:
        model, outcome.meta = build(name)
        convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.modules.conv._ConvNd))
        total = sum(p.numel() for p in model.parameters())
        outcome.params_before = total
        outcome.mostly_convolution = convolutions > total / 2
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


def build(name: str) -> tuple[Any, bool]:
    import ghostify

    try:
        model = ghostify.create_model(name, device="meta")
        if all(t.is_meta for t in [*model.parameters(), *model.buffers()]) and "/detection" not in type(model).__module__:
            return model.eval(), True
    except Exception as error:
        logging.debug("%s does not build on the meta device: %s", name, error)
    return ghostify.create_model(name).eval(), False


def compare(name: str, model: Any, student: Any, outcome: Outcome) -> None:
    import ghostify
    from ghostify.common.costs import measure
    from ghostify.inputs.examples import example_input

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
    import torch
    from torch.utils._pytree import tree_flatten

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob over names such as timm/resnet*")
    parser.add_argument("--out", type=Path, default=RESULTS / "zoo.csv")
    parser.add_argument("--sample", type=Path, help="also write the smallest converted model of each family into this file")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    import ghostify

    names = [name for name in ghostify.list_models() if fnmatchcase(name, args.only)]
    done = read(args.out)
    todo = [name for name in names if name not in done]
    run(todo, done, args.out, args.workers)
    rows = [done[name] for name in names if name in done]
    write(args.out, rows)
    if args.sample:
        args.sample.write_text("".join(f"{name}\n" for name in sample(rows)))
    for line in summary(rows):
        print(line)


def run(todo: list[str], done: dict[str, dict[str, str]], out: Path, workers: int) -> None:
    from rich.progress import track

    part = out.with_suffix(".part.csv")
    done.update(read(part))
    todo = [name for name in todo if name not in done]
    new = not part.exists()
    with part.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Outcome)])
        if new:
            writer.writeheader()
        for outcome in track(outcomes(todo, workers), total=len(todo), description="converting"):
            writer.writerow(asdict(outcome))
            file.flush()
            done[outcome.model] = {k: "" if v is None else str(v) for k, v in asdict(outcome).items()}
    part.unlink()


def outcomes(todo: list[str], workers: int) -> Any:
    """Results as they come; a model that kills its process (memory) is recorded, and the others go on."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    waiting = list(todo)
    while waiting:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        futures = {pool.submit(examine, name): name for name in waiting}
        try:
            for future in as_completed(futures):
                outcome = future.result()
                waiting.remove(outcome.model)
                yield outcome
        except BrokenProcessPool:
            victim = waiting.pop(0)
            yield Outcome(victim, reason="its process was killed")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def sample(rows: list[dict[str, str]]) -> list[str]:
    """The smallest model of each family that converts; a family is a file of the library."""
    import timm
    import torchvision

    family = {f"timm/{name}": f"timm {module}" for module in timm.list_modules() for name in timm.list_models(module=module)}
    smallest: dict[str, dict[str, str]] = {}
    for row in rows:
        library, _, name = row["model"].partition("/")
        if library == "torchvision":
            family[row["model"]] = f"torchvision {torchvision.models.get_model_builder(name).__module__}"
        best = smallest.get(family[row["model"]])
        if row["status"] == "converted" and (best is None or int(row["params_before"]) < int(best["params_before"])):
            smallest[family[row["model"]]] = row
    return sorted(row["model"] for row in smallest.values())


def read(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Outcome)])
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def summary(rows: list[dict[str, str]]) -> list[str]:
    lines = []
    for library in ("timm", "torchvision"):
        mine = [row for row in rows if row["model"].startswith(library)]
        if not mine:
            continue
        count = {status: sum(row["status"] == status for row in mine) for status in ("converted", "nothing", "error")}
        converted = [row for row in mine if row["status"] == "converted"]
        equal = sum(row["structure_equal"] == row["shapes_equal"] == "True" for row in converted)
        mostly = [row for row in mine if row["mostly_convolution"] == "True"]
        short = [row for row in mostly if not row["reached"] or float(row["reached"]) < 0.95]
        lines.append(
            f"{library}: {len(mine)} models, {count['converted']} converted ({equal} with equal outputs), "
            f"{count['nothing']} with nothing to convert, {count['error']} errors; of {len(mostly)} that are mostly "
            f"convolutions {len(mostly) - len(short)} reached 95 %"
        )
        lines += [f"  short: {row['model']} {row['reached'] or row['reason']} {row['skipped']}" for row in short]
        lines += [f"  error: {row['model']} {row['reason']}" for row in mine if row["status"] == "error"]
        lines += [
            f"  output differs: {row['model']}"
            for row in converted
            if not row["structure_equal"] == row["shapes_equal"] == "True"
        ]
    lines.append(f"{sum(float(row['seconds']) for row in rows) / 60:.1f} minutes of work in all")
    return lines


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
