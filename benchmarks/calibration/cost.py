"""Time and peak memory of converting and calibrating torchvision's resnet50 at 224x224, by the number of images.

    python -m benchmarks.calibration.cost [--images 64 256 1024] [--cheap absorbed] [--method least_squares] [--threads 2]

Absorbed ghosts: the pass that shares half of the FLOPs out (``share out``), and the calibration of that student. Each step and
number of images in a process of its own; what stands in results/calibration_cost.json is not run again. Weights are
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
from benchmarks.harness.machine import peak_mib, run_module, seconds_of, versions
from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "calibration_cost.json"
SHARE_OUT = "share out"


def batches(count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 32):
        noise = torch.randn(min(32, count - start), 3, 224, 224, generator=generator)
        yield F.avg_pool2d(noise, 7, 1, 3) * 7


def measured(count: int, cheap: str, step: str, threads: int) -> Row:
    torch.manual_seed(0)
    teacher = torchvision.models.resnet50().eval()
    ghostify.reestimate_norms(teacher, batches(32))
    goal = {"target": {"flops": 0.5}, "cheap": cheap, "example_input": (1, 3, 224, 224)}
    if step == SHARE_OUT:
        before = peak_mib() / 1024
        _, seconds = seconds_of(lambda: ghostify.convert(teacher, images=batches(count), max_images=count, **goal))
    else:
        student = ghostify.convert(teacher, **goal) if cheap == "absorbed" else ghostify.convert(teacher, 2, cheap=cheap)
        before = peak_mib() / 1024
        seconds = ghostify.calibrate(student, teacher, batches(count), method=step, max_images=count).seconds
    gib = {"peak_gib": round(peak_mib() / 1024, 2), "before_gib": round(before, 2)}
    return {"images": count, "threads": threads, "seconds": round(seconds, 1), **gib}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--cheap", choices=("absorbed", "depthwise"), default="absorbed")
    parser.add_argument("--method", default="least_squares")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    add_threads(parser, torch.get_num_threads())
    args = parse(parser)
    if args.one:
        print(json.dumps(measured(args.one, args.cheap, args.step, args.threads)))
        return
    rows = read_json(RESULTS).get("rows", [])
    steps = (SHARE_OUT, args.method) if args.cheap == "absorbed" else (args.method,)
    for step, count in ((step, count) for count in args.images for step in steps):
        about = {"cheap": args.cheap, "method": step, "images": count, "threads": args.threads}
        if any(about.items() <= row.items() for row in rows):
            continue
        options = ("--one", str(count), "--cheap", args.cheap, "--step", step, "--threads", str(args.threads))
        rows.append({**about, **json.loads(run_module("benchmarks.calibration.cost", *options)), **versions()})
        write_json(RESULTS, {"rows": rows})
        print(rows[-1], flush=True)


def tables() -> dict[str, str]:
    """Time and memory of resnet50 by the number of images."""
    rows = sorted(read_json(RESULTS)["rows"], key=lambda row: (row["cheap"], row["method"], row["threads"], row["images"]))
    lines = [
        [
            *(row["cheap"], row["method"], str(row["images"]), str(row["threads"]), f"{row['seconds']:.0f}"),
            *(f"{row[key]:.2f}" for key in ("peak_gib", "before_gib")),
        ]
        for row in rows
    ]
    header = ["ghosts", "step", "images", "threads", "seconds", "peak memory, GiB", "of that before, GiB"]
    return {"cost": table(header, lines)}


if __name__ == "__main__":
    main()
