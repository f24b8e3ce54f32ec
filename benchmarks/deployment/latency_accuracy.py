"""Accuracy after calibration against measured latency, students beside pruned networks of equal FLOPs.

    python -m benchmarks.deployment.latency_accuracy --data DIR --models FILE --imagenet DIR --work DIR [--network NAME]

The folders are those of accuracy.py. Students: ratios 1.5 to 4, ``cheap="auto"``, ``align=True``, one seed of images.
Pruned: torch-pruning with the importance that did best over these ratios in calibration.jsonl, at its best setting, at the
student's FLOPs, its norms re-estimated with the same images. Each network that was made is kept in DIR (work), so that an
interrupted run goes on; ``--make`` ends there. Then all are folded and timed in turns, in one process. Writes
results/latency_accuracy.json.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import ghostify
from benchmarks.calibration.accuracy import CIFAR, Bench, Trial

RESULTS = Path(__file__).parents[1] / "results" / "latency_accuracy.json"
IMPORTANCE = {"resnet18": "l2", "vgg16_bn": "taylor", "resnet56": "l2"}
RATIOS = (1.5, 2, 3, 4)
RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last")


def trials(network: str) -> Iterator[Trial]:
    images = 256 if network in CIFAR else 250
    for ratio in RATIOS:
        chosen: dict[str, Any] = {"images": images, "ratio": ratio}
        yield Trial("tradeoff", network, "auto", **chosen, options={"align": True})
        if network in CIFAR:  # on ImageNet's it takes forty minutes each
            yield Trial("tradeoff", network, "auto", "block", **chosen, options={"align": True})
        yield Trial("tradeoff", network, IMPORTANCE[network], "pruning", **chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "imagenet", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--network", nargs="*", choices=IMPORTANCE, default=list(IMPORTANCE))
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.data, args.models, args.imagenet)
    for network in args.network:
        models, rows = {"original": bench.teacher(network)}, {}
        for trial in trials(network):
            name = f"{trial.method}, ratio {trial.ratio:g}"
            file = args.work / f"{network} {name}.pt"
            if not file.exists():
                student, seconds, setting = bench.student(trial)
                row = bench.judged(trial, student, seconds, setting)
                part = file.with_suffix(".part")
                torch.save({"row": row, "model": student}, part)
                part.rename(file)
                print(f"{network}, {name}: {row['top1']} (base {row['base']}), {row['seconds']} s", flush=True)
            kept = torch.load(file, weights_only=False)  # a network that this script wrote
            models[name], rows[name] = kept["model"], kept["row"]
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if args.make or network in found:
            continue
        size = tuple(bench.example(network).shape[1:])
        report = ghostify.latency(
            models, size, runtimes=RUNTIMES, threads=args.threads, repeats=args.repeats, progress=True
        )  # fmt: skip
        print(report, flush=True)
        timings = json.loads(report.to_json())["timings"]
        found[network] = {"rows": rows, "timings": timings, "machine": report.machine, "threads": args.threads}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
