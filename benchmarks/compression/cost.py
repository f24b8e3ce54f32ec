"""Time and peak memory of compressing ResNet-18 on 250 pictures.

    python -m benchmarks.compression.cost --data DIR --imagenet DIR [--threads 2]     # half an hour on two quiet cores

DIR (data) holds resnet18_imagenet.safetensors. 250 of the 500 pictures calibrate, and where a drop is allowed the others judge.
Each call in a process of its own. Writes results/compress_cost.json.
"""

import argparse
import json
from typing import Any

import torch

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import peak_mib, run_module, seconds_of, versions_line
from benchmarks.harness.markdown import percent, table
from benchmarks.harness.networks import Networks
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "compress_cost.json"
CALLS: dict[str, dict[str, Any]] = {
    "target={'flops': 0.5}": {"target": {"flops": 0.5}},
    "target={'latency': 0.6}, runtime='openvino'": {"target": {"latency": 0.6}, "runtime": "openvino"},
    "max_drop=0.05": {"max_drop": 0.05},
    "max_drop=0.05, runtime='openvino'": {"max_drop": 0.05, "runtime": "openvino"},
}


def measured(args: argparse.Namespace) -> Row:
    networks = Networks(args.data, args.data, args.imagenet)
    model, split = networks.teacher("resnet18"), networks.split("resnet18", 0, 250)
    before = peak_mib()
    options = CALLS[args.one]
    val = {"val": (split.images, split.labels)} if "max_drop" in options else {}
    result, seconds = seconds_of(lambda: ghostify.compress(model, split.few, threads=args.threads, **options, **val))
    report = result.report
    return {
        "seconds": round(seconds, 1),
        "peak_gib": round(peak_mib() / 1024, 2),
        "before_gib": round(before / 1024, 2),
        "students": sum(step.flops_share is not None for step in report.steps),
        "flops_share": round(report.student.flops / report.original.flops, 4),
        "threads": args.threads,
        "about": versions_line(),
    }


def main() -> None:
    parser = argument_parser(__doc__, "data", "imagenet")
    parser.add_argument("--call", nargs="+", choices=CALLS, default=list(CALLS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    add_threads(parser, torch.get_num_threads())
    args = parse(parser)
    if args.one:
        print(json.dumps(measured(args)))
        return
    rows = read_json(RESULTS)
    for call in args.call:
        options = (
            "--data",
            str(args.data.resolve()),
            "--imagenet",
            str(args.imagenet.resolve()),
            "--threads",
            str(args.threads),
        )
        if call not in rows:
            rows[call] = json.loads(run_module("benchmarks.compression.cost", "--one", call, *options))
            write_json(RESULTS, rows)
            print(call, rows[call], flush=True)


def tables() -> dict[str, str]:
    header = ["call", "threads", "students made", "FLOPs reached", "seconds", "peak memory, GiB", "of that before, GiB"]
    lines = [
        [
            *(f"`{call}`", str(row["threads"]), str(row["students"]), percent(row["flops_share"]), f"{row['seconds']:.0f}"),
            *(f"{row[key]:.2f}" for key in ("peak_gib", "before_gib")),
        ]
        for call, row in read_json(RESULTS).items()
    ]
    return {"compress_cost": table(header, lines)}


if __name__ == "__main__":
    main()
