"""Time and peak memory of calibrating torchvision's resnet50 at 224x224, by the number of images.

    python -m benchmarks.calibration.cost [--images 64 256 1024] [--method least_squares] [--threads 2]

Each number of images in a process of its own; what stands in results/calibration_cost.json is not run again. Weights are
untrained, with norms that have seen the images, and images are smooth noise: neither changes what it costs. Images are made
batch by batch, as a loader would read them.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import ghostify

RESULTS = Path(__file__).parents[1] / "results" / "calibration_cost.json"


def batches(count: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 32):
        noise = torch.randn(min(32, count - start), 3, 224, 224, generator=generator)
        yield F.avg_pool2d(noise, 7, 1, 3) * 7


def measure_one(count: int, method: str, threads: int) -> dict[str, Any]:
    import torchvision

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    teacher = torchvision.models.resnet50().eval()
    ghostify.reestimate_norms(teacher, batches(32))
    student = ghostify.convert(teacher, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report = ghostify.calibrate(student, teacher, batches(count), method=method, max_images=count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gib = {"peak_gib": round(peak, 2), "before_gib": round(before, 2)}
    return {"images": count, "threads": threads, "seconds": round(report.seconds, 1), **gib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--method", default="least_squares")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure_one(args.one, args.method, args.threads)))
        return
    about = {"torch": torch.__version__, "ghostify": ghostify.__version__, "python": platform.python_version()}
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for count in args.images:
        if any((row["images"], row["method"], row["threads"]) == (count, args.method, args.threads) for row in rows):
            continue
        command = [
            sys.executable,
            "-m",
            "benchmarks.calibration.cost",
            "--one",
            str(count),
            "--method",
            args.method,
            "--threads",
            str(args.threads),
        ]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append({"method": args.method, **row, **about})
        RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
