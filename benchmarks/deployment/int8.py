"""Int8: what quantization by the runtimes' own tools costs and gains, original and student.

    python -m benchmarks.deployment.int8 --data DIR --models FILE --imagenet DIR [--network NAME ...] [--threads 2]

The folders are those of calibration/accuracy.py. ResNet-18 and MobileNetV2 with ImageNet weights. Students: absorbed ghosts
at half the FLOPs, the budget shared out from one pass; and, of ResNet-18, Ghost modules at ratio 2, ``cheap="auto"``,
``align=True``. Both are calibrated in closed form on 250 pictures, 64 of which also set the scales; top-1 on the other 250.
Each network in float and int8, in ONNX Runtime and OpenVINO, batch 1, in turns. ``sums`` are Ghost modules folded first, so
that convolutions are sums of two, each rounded by itself; where ``export`` refuses that since outputs differ too much, its
words. Writes results/int8.json; a network that stands there with absorbed ghosts is not measured again.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import IMAGENET, Networks, Split, percent
from benchmarks.harness.results import Row, read_json, write_json
from ghostify.common.costs import measure
from ghostify.deployment.formats import onnx_session, openvino_request
from ghostify.deployment.timing import in_turns, machine

RESULTS = "int8.json"
SHARE = 0.5
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}


@dataclass(frozen=True)
class Exported:
    """A file of a network: how to load it, what it says of the pictures, its size."""

    load: Callable[[], Any]
    scores: Tensor
    megabytes: float


def students(name: str, teacher: nn.Module, few: Tensor) -> Iterator[tuple[str, nn.Module]]:
    """Calibrated students by name."""
    absorbed = ghostify.convert(teacher, target={"flops": SHARE}, cheap="absorbed", images=few, example_input=few[:1])
    ghostify.calibrate(absorbed, teacher, few, method="least_squares", progress=True)
    yield "absorbed", absorbed.eval()
    if name == "resnet18":
        student = ghostify.convert(teacher, 2, cheap="auto")
        ghostify.calibrate(student, teacher, few, method="least_squares", align=True, progress=True)
        yield "student", student.eval()


def candidates(name: str, teacher: nn.Module, few: Tensor) -> dict[str, tuple[nn.Module, Tensor | None]]:
    """Networks by name, with the images that set their scales."""
    networks = {"original": teacher, **dict(students(name, teacher, few))}
    result: dict[str, tuple[nn.Module, Tensor | None]] = {key: (network, None) for key, network in networks.items()}
    result |= {f"{key}, int8": (network, few[:64]) for key, network in networks.items()}
    if "student" in networks:
        result["student, int8, sums"] = (ghostify.fold(networks["student"]), few[:64])
    return result


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
        low, median, high = statistics.quantiles(seconds[name], n=4, method="inclusive")
        rows.append(
            {
                "runtime": runtime,
                "network": name,
                "top1": percent(file.scores.argmax(1) == split.labels),
                "off": round(float((file.scores - exact).norm() / exact.norm()), 4),
                "file_mb": round(file.megabytes, 1),
                "flops": measure(networks[name][0], (split.images[:1],)).flops,
                "ms": round(1e3 * median, 2),
                "ms_quartiles": [round(1e3 * low, 2), round(1e3 * high, 2)],
            }
        )
    return rows


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet")
    parser.add_argument("--network", nargs="*", choices=IMAGENET, default=IMAGENET)
    parser.add_argument("--repeats", type=int, default=9)
    add_threads(parser, 2)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    results = read_json(RESULTS)
    for name in args.network:
        if any(row["network"] == "absorbed" for row in results.get(name, {"rows": []})["rows"]):
            continue
        split = networks.split(name, 0, 250)
        models = candidates(name, networks.teacher(name), split.few)
        rows: list[Row] = []
        for runtime in SUFFIXES:
            rows += measured(models, split, runtime, args.threads, args.repeats)
        print(*rows, sep="\n", flush=True)
        results[name] = {"machine": machine(), "threads": args.threads, "pictures": len(split.images), "rows": rows}
        write_json(RESULTS, results)


def tables() -> dict[str, str]:
    """Float and int8: accuracy, files and time; times faster than the original of the same precision, and its FLOPs."""
    results = read_json(RESULTS)
    lines = []
    for name, result in results.items():
        rows = {(row["runtime"], row["network"]): row for row in result["rows"]}
        for (runtime, network), row in rows.items():
            original = rows[runtime, "original, int8" if "int8" in network else "original"]
            lines.append([name, runtime, network, *cells(row, original)])
    header = ["", "runtime", "network", "top-1, %", "outputs off by", "file, MB", "ms", "times faster", "times fewer FLOPs"]
    machines = dict.fromkeys(f"{of['threads']} threads, {of['machine']}" for of in results.values())
    return {"int8": f"{table(header, lines)}\n\n{'; '.join(machines)}."}


def cells(row: Row, original: Row) -> list[str]:
    if "refused" in row:
        return ["", f"`export` refuses: {row['refused'].rpartition(': ')[2]}", "", "", "", ""]
    off = f"{row['off']:.0%}" if row["off"] else ""
    flops = f"{original['flops'] / row['flops']:.2f}" if "flops" in row else ""
    return [
        *(f"{row['top1']:.1f}", off, f"{row['file_mb']:.1f}", f"{row['ms']:.1f}"),
        *(f"{original['ms'] / row['ms']:.2f}", flops),
    ]


if __name__ == "__main__":
    main()
