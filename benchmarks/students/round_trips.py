"""Students of one model of each family of timm and torchvision: saved and loaded, folded, exported and run again.

    python -m benchmarks.students.round_trips [--family GLOB]

Families are the modules in which the libraries define models; of each the smallest that results/zoo.csv has as converted and
mostly convolutions. A row of results/round_trips.csv tells whether the loaded student's outputs are the very same, how far the
folded one's are off (of the largest output; where that is more than 1e-5 also how far the student itself is, run in
channels_last), whether the ONNX and torch.export files agree (``ghostify.export`` compares them; of a network that takes no
single tensor the named part was exported), or why not. A family that stands there is not run again.
"""

import argparse
import csv
import tempfile
import time
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import ghostify
from ghostify.inputs.examples import example_input

RESULTS = Path(__file__).parents[1] / "results"
COLUMNS = ("family", "model", "loaded", "fold_off", "self_off", "norms_left", "orders_left", "onnx", "torch", "seconds")
FOLD_WITHIN = 1e-5
PARTS = ("backbone", "feature_encoder")  # that take one tensor, of detectors and RAFT, which do not
FORMATS = {"onnx": "s.onnx", "torch": "s.pt2"}


def families() -> Iterator[tuple[str, str]]:
    """Family and model."""
    import timm
    import torchvision

    with (RESULTS / "zoo.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "converted" and row["mostly_convolution"] == "True"]
    smallest: dict[str, dict[str, str]] = {}
    for row in rows:
        library, _, name = row["model"].partition("/")
        builder = timm.model_entrypoint(name) if library == "timm" else torchvision.models.get_model_builder(name)
        family = f"{library}/{builder.__module__.removeprefix(f'{library}.models.')}"
        if family not in smallest or int(row["params_before"]) < int(smallest[family]["params_before"]):
            smallest[family] = row
    for family, row in sorted(smallest.items()):
        yield family, row["model"]


def leaves(output: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


@torch.no_grad()
def examine(family: str, name: str) -> dict[str, Any]:
    start = time.perf_counter()
    torch.manual_seed(0)
    row: dict[str, Any] = {"family": family, "model": name}
    student = ghostify.convert(ghostify.create_model(name), 2, cheap="auto").eval()
    arguments = example_input(student)
    assert arguments is not None
    arguments = tuple(
        torch.randn_like(a) if isinstance(a, torch.Tensor) else [torch.rand_like(x) for x in a] for a in arguments
    )
    wanted = given_by(student, arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            ghostify.save(student, Path(folder) / "s.safetensors")
            given = given_by(ghostify.load(Path(folder) / "s.safetensors"), arguments)
            row["loaded"] = all(torch.equal(a, b) for a, b in zip(wanted, given, strict=True))
        except Exception as error:
            row["loaded"] = told(error)
        try:
            folded = ghostify.fold(student)
            given = given_by(folded, arguments)
            off = [apart(a, b) for a, b in zip(wanted, given, strict=True)]
            left = folded.folding.to_frame().dropna(subset="reason")["kind"].value_counts()
            row |= {
                "fold_off": f"{max(off):.1e}",
                "norms_left": left.get("norm", 0),
                "orders_left": left.get("channel order", 0),
            }
            if max(off) > FOLD_WITHIN:
                again = given_by(student, tuple(a.contiguous(memory_format=torch.channels_last) for a in arguments))
                row["self_off"] = f"{max(apart(a, b) for a, b in zip(wanted, again, strict=True)):.1e}"
        except Exception as error:
            row["fold_off"] = told(error)
        part = next((part for part in PARTS if hasattr(student, part)), None) if several(arguments) else None
        for kind, file in FORMATS.items():
            try:
                if part is None:
                    ghostify.export(student, Path(folder) / file)
                else:
                    ghostify.export(getattr(student, part), Path(folder) / file, example_input=(1, 3, 320, 320))
                row[kind] = part or True
            except Exception as error:
                row[kind] = told(error)
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def several(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) > 1 or isinstance(arguments[0], list)


def given_by(model: Any, arguments: tuple[Any, ...]) -> list[torch.Tensor]:
    """The outputs; of a detector what its heads say, for with random weights boxes come in an order that rounding changes."""
    if not isinstance(arguments[0], list):
        return leaves(model(*arguments))
    batch, _ = model.transform(arguments[0])
    maps = model.backbone(batch.tensors)
    maps = {"0": maps} if isinstance(maps, torch.Tensor) else maps
    if not hasattr(model, "roi_heads"):
        return leaves(model.head(list(maps.values())))
    height, width = batch.image_sizes[0]
    places = [[0.0, 0.0, width, height], [width / 4, height / 4, width / 2, height / 2]]
    boxes = [torch.tensor(places) for _ in batch.image_sizes]
    found = leaves(model.rpn.head(list(maps.values())))
    for kind in ("box", "mask", "keypoint"):
        parts = [getattr(model.roi_heads, f"{kind}_{part}", None) for part in ("roi_pool", "head", "predictor")]
        if None not in parts:
            pool, head, predictor = parts
            found += leaves(predictor(head(pool(maps, boxes, batch.image_sizes))))
    return found


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max() / one.float().abs().max().clamp_min(1e-12))


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:150]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="*")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    path = RESULTS / "round_trips.csv"
    done: set[str] = set()
    if path.exists():
        with path.open(newline="") as file:
            done = {row["family"] for row in csv.DictReader(file)}
    for family, name in families():
        if family in done or not fnmatchcase(family, args.family):
            continue
        row = examine(family, name)
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
