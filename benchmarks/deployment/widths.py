"""Which widths are fast: layers and whole networks whose widths are multiples of 1, 2, 4, 8, 16 and 32, on each runtime.

    python -m benchmarks.deployment.widths [--threads 2] [--repeats 5] [--runtime NAME ...]

Layers stand in pairs, from a fixed width to the one that is varied and back, as the maps of a span do: two 3x3 convolutions,
two 1x1 convolutions, and a depthwise 3x3 convolution between two 1x1. A width that is a multiple of m, and of no more, is the
base less m: 63, 62, 60, 56, 48, 64. Whole networks keep half of their FLOPs, all widths rounded up to multiples of m;
compiling twelve networks takes longer than all else, so they are not timed there. All of a kind take turns in one process.
Writes results/widths.json; a kind that stands there for a runtime is not measured again. The default of ``round_to`` for
absorbed spans comes from here.
"""

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import nn

import ghostify
from benchmarks.deployment.latency import dense_network
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import seconds_of
from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json, write_json
from ghostify.deployment.timing import machine

RESULTS = "widths.json"
MULTIPLES = (1, 2, 4, 8, 16, 32)
BASES = {64: 28, 192: 14}  # widths, and the places of their maps along each side
LAYERS = ("conv 3x3", "conv 1x1", "depthwise 3x3")
NETWORKS = ("resnet18", "mobilenet_v2")
RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last")
BATCHES = (1, 8)


def width(base: int, multiple: int) -> int:
    return base if multiple == max(MULTIPLES) else base - multiple


def layers(kind: str, base: int, multiple: int) -> nn.Module:
    """A pair of convolutions with maps of the varied width in between."""
    torch.manual_seed(0)
    between, size = width(base, multiple), 3 if kind == "conv 3x3" else 1
    first = [nn.Conv2d(base, between, size, padding=size // 2), nn.ReLU()]
    depthwise = [nn.Conv2d(between, between, 3, padding=1, groups=between), nn.ReLU()] if kind == "depthwise 3x3" else []
    return nn.Sequential(*first, *depthwise, nn.Conv2d(between, base, size, padding=size // 2)).eval()


def half_network(name: str) -> Iterator[tuple[str, nn.Module]]:
    """A network and those that keep half of its FLOPs, by the multiple that their widths are rounded to."""
    dense, noise = dense_network(name)
    yield "original", dense
    for multiple in MULTIPLES:
        student = ghostify.convert(
            dense, target={"flops": 0.5}, cheap="absorbed", round_to=multiple, example_input=(1, *noise.shape[1:])
        )
        ghostify.reestimate_norms(student, noise, batch_size=4)
        yield str(multiple), student.eval()


def measured(runtime: str, kind: str, threads: int, repeats: int) -> list[Row]:
    """Rows of one kind of layers at each base, or of one network."""
    if kind in NETWORKS:
        return rows_of(dict(half_network(kind)), (3, 224, 224), runtime, threads, repeats)
    rows = []
    for base, places in BASES.items():
        models = {str(multiple): layers(kind, base, multiple) for multiple in reversed(MULTIPLES)}
        found = rows_of(models, (base, places, places), runtime, threads, repeats)
        rows += [{"base": base, "width": width(base, int(row["widths"])), **row} for row in found]
    return rows


def rows_of(models: dict[str, nn.Module], size: tuple[int, ...], runtime: str, threads: int, repeats: int) -> list[Row]:
    """Timings, and what share of the FLOPs ratio to the first model is speed."""
    chosen: dict[str, Any] = {"runtimes": [runtime], "batch_sizes": BATCHES, "threads": threads, "repeats": repeats}
    report = ghostify.latency(models, size, **chosen)
    return [
        {
            "widths": timing["model"],
            "batch_size": timing["batch_size"],
            "ms": round(1e3 * timing["seconds"], 4),
            "spread": round((timing["high"] - timing["low"]) / timing["seconds"], 3),
            "flops_ratio": round(timing["flops_ratio"], 4),
            "kept_share": round(timing["latency_ratio"] / timing["flops_ratio"], 3),
        }
        for timing in json.loads(report.to_json())["timings"]
    ]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runtime", nargs="*", choices=RUNTIMES, default=RUNTIMES)
    add_threads(parser, 2)
    args = parse(parser)
    results = read_json(RESULTS) or {"rows": {}}
    kinds = {runtime: LAYERS if runtime == "compile" else (*LAYERS, *NETWORKS) for runtime in args.runtime}
    for runtime, kind in ((runtime, kind) for runtime, all_kinds in kinds.items() for kind in all_kinds):
        key = f"{runtime}, {kind}"
        if key in results["rows"]:
            continue
        rows, seconds = seconds_of(lambda runtime=runtime, kind=kind: measured(runtime, kind, args.threads, args.repeats))
        results["rows"][key] = rows
        write_json(RESULTS, {**results, "machine": machine(), "threads": args.threads})
        print(f"{key}: {seconds:.0f} s", flush=True)


def tables() -> dict[str, str]:
    """Speed for FLOPs by the multiple of widths: layers beside those of multiples of 32, networks beside the original."""
    results = read_json(RESULTS) or {"rows": {}}
    lines = []
    for key, rows in results["rows"].items():
        runtime, _, kind = key.partition(", ")
        for size in BATCHES:
            cells = []
            for multiple in MULTIPLES:
                shares = [r["kept_share"] for r in rows if (r["widths"], r["batch_size"]) == (str(multiple), size)]
                cells.append(f"{prod(shares) ** (1 / len(shares)):.2f}")
            lines.append([kind, runtime, str(size), *cells])
    lines.sort(key=lambda line: (*LAYERS, *NETWORKS).index(line[0]))
    text = table(["layers", "runtime", "batch", *(f"multiples of {m}" for m in MULTIPLES)], lines)
    return {"widths": f"{text}\n\n{results['threads']} threads, {results['machine']}." if lines else text}


if __name__ == "__main__":
    main()
