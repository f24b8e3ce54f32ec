"""Time and peak memory of calibrating torchvision's resnet50 at 224x224, by the number of images.

    python -m benchmarks.calibration.cost [--images 64 256 1024] [--method least_squares] [--threads 2]

Each number of images in a process of its own; what stands in results/calibration_cost.json is not run again. Weights are
untrained, with norms that have seen the images, and images are smooth noise: neither changes what it costs. Images are made
batch by batch, as a loader would read them.
"""

import argparse
import json
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import peak_mib, run_module, versions
from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "calibration_cost.json"


def batches(count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 32):
        noise = torch.randn(min(32, count - start), 3, 224, 224, generator=generator)
        yield F.avg_pool2d(noise, 7, 1, 3) * 7


def measured(count: int, method: str, threads: int) -> Row:
    torch.manual_seed(0)
    teacher = torchvision.models.resnet50().eval()
    ghostify.reestimate_norms(teacher, batches(32))
    student = ghostify.convert(teacher, 2)
    before = peak_mib() / 1024
    report = ghostify.calibrate(student, teacher, batches(count), method=method, max_images=count)
    gib = {"peak_gib": round(peak_mib() / 1024, 2), "before_gib": round(before, 2)}
    return {"images": count, "threads": threads, "seconds": round(report.seconds, 1), **gib}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--method", default="least_squares")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    add_threads(parser, torch.get_num_threads())
    args = parse(parser)
    if args.one:
        print(json.dumps(measured(args.one, args.method, args.threads)))
        return
    rows = read_json(RESULTS).get("rows", [])
    for count in args.images:
        if any((row["images"], row["method"], row["threads"]) == (count, args.method, args.threads) for row in rows):
            continue
        options = ("--one", str(count), "--method", args.method, "--threads", str(args.threads))
        row = json.loads(run_module("benchmarks.calibration.cost", *options))
        rows.append({"method": args.method, **row, **versions()})
        write_json(RESULTS, {"rows": rows})
        print(rows[-1], flush=True)


def tables() -> dict[str, str]:
    """Time and memory of resnet50 by the number of images."""
    rows = sorted(read_json(RESULTS)["rows"], key=lambda row: (row["threads"], row["images"]))
    lines = [
        [str(r["images"]), str(r["threads"]), f"{r['seconds']:.0f}", f"{r['peak_gib']:.2f}", f"{r['before_gib']:.2f}"]
        for r in rows
    ]
    return {"cost": table(["images", "threads", "seconds", "peak memory, GiB", "of that before, GiB"], lines)}


if __name__ == "__main__":
    main()
