"""Int8: what quantization by the runtimes' own tools costs and gains, original and student.

    python -m benchmarks.deployment.int8 --data DIR --models FILE --imagenet DIR [--threads 2]

The folders are those of calibration/accuracy.py. ResNet-18 with ImageNet weights; the student at ratio 2, ``cheap="auto"``,
calibrated in closed form on 250 pictures (``align=True``), 64 of which also set the scales; top-1 on the other 250. Each
network in float and int8, in ONNX Runtime and OpenVINO, batch 1, in turns. ``sums`` is the student folded first, so that
convolutions are sums of two, each rounded by itself; where ``export`` refuses that since outputs differ too much, its words.
Writes results/int8.json.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import Networks, Split, percent
from benchmarks.harness.results import Row, read_json, write_json
from ghostify.deployment.formats import onnx_session, openvino_request
from ghostify.deployment.timing import in_turns, machine

RESULTS = "int8.json"
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class Exported:
    """A file of a network: how to load it, what it says of the pictures, its size."""

    load: Callable[[], Any]
    scores: Tensor
    megabytes: float


def candidates(teacher: nn.Module, few: Tensor) -> dict[str, tuple[nn.Module, Tensor | None]]:
    """Networks by name, with the images that set their scales."""
    student = ghostify.convert(teacher, 2, cheap="auto")
    ghostify.calibrate(student, teacher, few, method="least_squares", align=True, progress=True)
    student.eval()
    return {
        "original": (teacher, None),
        "student": (student, None),
        "original, int8": (teacher, few[:64]),
        "student, int8": (student, few[:64]),
        "student, int8, sums": (ghostify.fold(student), few[:64]),
    }


def exported(model: nn.Module, images: Tensor | None, pictures: Tensor, path: Path, threads: int) -> Exported:
    ghostify.export(model, path, example_input=pictures[:1], int8=images)
    onnx = path.suffix == ".onnx"
    files = [path] if onnx else [path, path.with_suffix(".bin")]
    open_file: Any = onnx_session if onnx else openvino_request
    load = partial(open_file, path if onnx else str(path), threads)
    run = load()
    scores = torch.cat([run(picture)[0] for picture in pictures.split(1)])
    return Exported(load, scores, sum(file.stat().st_size for file in files) / 1e6)


def measured(networks: dict[str, Any], split: Split, runtime: str, threads: int, repeats: int) -> list[Row]:
    rows: list[Row] = []
    files: dict[str, Exported] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (model, images)) in enumerate(networks.items()):
            path = Path(folder) / f"{number}{SUFFIXES[runtime]}"
            try:
                files[name] = exported(model, images, split.images, path, threads)
            except ghostify.GhostifyError as error:
                if "other outputs" not in str(error):
                    raise
                rows.append({"runtime": runtime, "network": name, "refused": str(error)})
        seconds = in_turns({name: file.load for name, file in files.items()}, split.images[:1], repeats)
    for name, file in files.items():
        exact = files[name.partition(",")[0]].scores
        rows.append(
            {
                "runtime": runtime,
                "network": name,
                "top1": percent(file.scores.argmax(1) == split.labels),
                "off": round(float((file.scores - exact).norm() / exact.norm()), 4),
                "file_mb": round(file.megabytes, 1),
                "ms": round(1e3 * sorted(seconds[name])[repeats // 2], 2),
            }
        )
    return rows


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet")
    parser.add_argument("--repeats", type=int, default=9)
    add_threads(parser, 2)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    split = networks.split("resnet18", 0, 250)
    models = candidates(networks.teacher("resnet18"), split.few)
    rows: list[Row] = []
    for runtime in SUFFIXES:
        rows += measured(models, split, runtime, args.threads, args.repeats)
        print(*rows, sep="\n", flush=True)
    write_json(RESULTS, {"machine": machine(), "threads": args.threads, "pictures": len(split.images), "rows": rows})


def tables() -> dict[str, str]:
    results = read_json(RESULTS)
    lines = [[row["runtime"], row["network"], *cells(row)] for row in results["rows"]]
    text = table(["runtime", "network", "top-1, %", "outputs off by", "file, MB", "ms"], lines)
    return {"int8": f"{text}\n\n{results['threads']} threads, {results['machine']}."}


def cells(row: Row) -> list[str]:
    if "refused" in row:
        return ["", f"`export` refuses: {row['refused'].rpartition(': ')[2]}", "", ""]
    return [f"{row['top1']:.1f}", f"{row['off']:.0%}" if row["off"] else "", f"{row['file_mb']:.1f}", f"{row['ms']:.1f}"]


if __name__ == "__main__":
    main()
