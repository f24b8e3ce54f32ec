"""Students of one model of each family of timm and torchvision: saved and loaded, folded, exported and run again.

    python -m benchmarks.students.round_trips [--family GLOB]

Families are the modules in which the libraries define models; of each the smallest that results/zoo.csv has as converted and
mostly convolutions. A row of results/round_trips.csv tells whether the loaded student's outputs are the very same, how far the
folded one's are off (of the largest output; where that is more than 1e-5 also how far the student itself is, run in
channels_last), whether the ONNX and torch.export files agree (``ghostify.export`` compares them; of a network that takes no
single tensor the named part was exported), or why not. A family that stands there is not run again.
"""

import tempfile
import time
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.results import RESULTS as FOLDER
from benchmarks.harness.results import Row, append_row, read_csv
from benchmarks.zoo import smallest_of_families
from ghostify.inputs.examples import example_input

RESULTS = FOLDER / "round_trips.csv"
COLUMNS = ("family", "model", "loaded", "fold_off", "self_off", "norms_left", "orders_left", "onnx", "torch", "seconds")
FOLD_WITHIN = 1e-5
PARTS = ("backbone", "feature_encoder")  # that take one tensor, of detectors and RAFT, which do not
FORMATS = {"onnx": "s.onnx", "torch": "s.pt2"}


def families() -> Iterator[tuple[str, str]]:
    """Family and model."""
    rows = read_csv(FOLDER / "zoo.csv")
    chosen = (row for row in rows if row["status"] == "converted" and row["mostly_convolution"] == "True")
    for family, row in sorted(smallest_of_families(chosen).items()):
        yield family, row["model"]


@torch.no_grad()
def examine(family: str, name: str) -> Row:
    start = time.perf_counter()
    torch.manual_seed(0)
    row: Row = {"family": family, "model": name}
    student = ghostify.convert(ghostify.create_model(name), 2, cheap="auto").eval()
    arguments = noise_like(example_input(student))
    outputs = outputs_of(student, arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            row["loaded"] = loads_equal(student, Path(folder) / "s.safetensors", arguments, outputs)
        except Exception as error:  # the row records whatever happened
            row["loaded"] = problem(error)
        try:
            row |= folded(student, arguments, outputs)
        except Exception as error:
            row["fold_off"] = problem(error)
        part = next((part for part in PARTS if hasattr(student, part)), None) if several(arguments) else None
        for kind, file in FORMATS.items():
            try:
                export(student, part, Path(folder) / file)
                row[kind] = part or True
            except Exception as error:
                row[kind] = problem(error)
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def noise_like(arguments: tuple[Any, ...] | None) -> tuple[Any, ...]:
    assert arguments is not None
    return tuple(torch.randn_like(a) if isinstance(a, Tensor) else [torch.rand_like(x) for x in a] for a in arguments)


def several(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) > 1 or isinstance(arguments[0], list)


def loads_equal(student: nn.Module, path: Path, arguments: tuple[Any, ...], outputs: list[Tensor]) -> bool:
    ghostify.save(student, path)
    loaded_outputs = outputs_of(ghostify.load(path), arguments)
    return all(torch.equal(a, b) for a, b in zip(outputs, loaded_outputs, strict=True))


def folded(student: nn.Module, arguments: tuple[Any, ...], outputs: list[Tensor]) -> Row:
    """How far the folded student is off, and what of norms and channel orders is left."""
    model = ghostify.fold(student)
    off = largest_difference(outputs, outputs_of(model, arguments))
    left = model.folding.to_frame().dropna(subset="reason")["kind"].value_counts()
    row = {"fold_off": f"{off:.1e}", "norms_left": left.get("norm", 0), "orders_left": left.get("channel order", 0)}
    if off > FOLD_WITHIN:
        again = outputs_of(student, tuple(a.contiguous(memory_format=torch.channels_last) for a in arguments))
        row["self_off"] = f"{largest_difference(outputs, again):.1e}"
    return row


def export(student: nn.Module, part: str | None, path: Path) -> None:
    if part is None:
        ghostify.export(student, path)
    else:
        ghostify.export(getattr(student, part), path, example_input=(1, 3, 320, 320))


def outputs_of(model: Any, arguments: tuple[Any, ...]) -> list[Tensor]:
    """The outputs; of a detector what its heads say, for with random weights boxes come in an order that rounding changes."""
    if not isinstance(arguments[0], list):
        return leaves(model(*arguments))
    batch, _ = model.transform(arguments[0])
    maps = model.backbone(batch.tensors)
    maps = {"0": maps} if isinstance(maps, Tensor) else maps
    if not hasattr(model, "roi_heads"):
        return leaves(model.head(list(maps.values())))
    height, width = batch.image_sizes[0]
    places = [[0.0, 0.0, width, height], [width / 4, height / 4, width / 2, height / 2]]
    boxes = [torch.tensor(places) for _ in batch.image_sizes]
    outputs = leaves(model.rpn.head(list(maps.values())))
    for kind in ("box", "mask", "keypoint"):
        parts = [getattr(model.roi_heads, f"{kind}_{part}", None) for part in ("roi_pool", "head", "predictor")]
        if None not in parts:
            pool, head, predictor = parts
            outputs += leaves(predictor(head(pool(maps, boxes, batch.image_sizes))))
    return outputs


def leaves(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def largest_difference(outputs: list[Tensor], others: list[Tensor]) -> float:
    return max(difference(one, other) for one, other in zip(outputs, others, strict=True))


def difference(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max() / one.float().abs().max().clamp_min(1e-12))


def problem(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:150]}"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--family", default="*")
    args = parse(parser)
    warnings.simplefilter("ignore")
    done = {row["family"] for row in read_csv(RESULTS)}
    for family, name in families():
        if family in done or not fnmatchcase(family, args.family):
            continue
        row = examine(family, name)
        append_row(RESULTS, COLUMNS, row)
        print(row, flush=True)


def tables() -> dict[str, str]:
    rows = read_csv(RESULTS)
    beyond = [row for row in rows if float(row["fold_off"]) > FOLD_WITHIN]
    lines = [["families", str(len(rows))]]
    lines.append(["loaded, outputs the very same", str(sum(row["loaded"] == "True" for row in rows))])
    lines.append(["folded, outputs within 1e-5 of the largest", str(len(rows) - len(beyond))])
    for kind, name in (("onnx", "ONNX"), ("torch", "torch.export")):
        whole = sum(row[kind] == "True" for row in rows)
        parts = sum(row[kind] in PARTS for row in rows)
        lines.append([f"exported as {name}, run and compared", f"{whole}, and {parts} by a part"])
    exceptions = "".join(
        f" Folded, {row['model'].partition('/')[2]} is off by {row['fold_off']}; in channels_last it is off from itself by "
        f"{row['self_off']}."
        for row in beyond
    )
    note = "By a part: detectors and RAFT take no single tensor, so their backbone or feature encoder was exported."
    return {"round_trips": f"{table(['', ''], lines)}\n\n{note}{exceptions}"}


if __name__ == "__main__":
    main()
