"""``compress(max_drop=...)``: what size is reached, and whether test images lose no more than was promised.

    python -m benchmarks.compression.drops --data DIR --models FILE --imagenet DIR --bccd DIR --camvid DIR --work DIR
        [--network NAME ...] [--drop 0.01 ...] [--seeds 3] [--steps 400] [--threads 2]

ResNet-56 and VGG-16-BN: the seed chooses 256 of CIFAR-10's first 45,000 training images to calibrate; the other 5,000 judge.
ResNet-18 and MobileNetV2: of the 500 pictures the seed chooses 100 to calibrate and 300 to judge; 100 are test images. The BCCD
detector and the CamVid network (teachers of benchmarks.tasks.dense, trained here where DIR (work) has none) calibrate on 128
training images that the seed chooses, and are judged by the validation split. ``--steps`` distils CIFAR-10's students so
long, without labels. Each run is a line of results/compress_drops.jsonl; its steps are kept in DIR (work), and a run that was
interrupted goes on. Where no student can be told to keep within the drop, the line has the sentence that says so.

Expected on two quiet cores, a run: ResNet-56 6 minutes, VGG-16-BN 8, ResNet-18 6, MobileNetV2 10, detector 12, CamVid 8.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import seconds_of, versions_line
from benchmarks.harness.markdown import mean_and_range, percent, table
from benchmarks.harness.networks import CIFAR, IMAGENET, Networks
from benchmarks.harness.results import Row, append_line, read_lines
from benchmarks.tasks.kinds import Detect, Segment
from benchmarks.tasks.teachers import teacher
from ghostify.conversion.runtime_timer import RuntimeTimer
from ghostify.deployment.runtimes import runtime_named

RESULTS = "compress_drops.jsonl"
DROPS = (0.005, 0.01, 0.02)
DENSE = {"bccd_detector": Detect, "camvid_network": Segment}
NETWORKS = (*CIFAR, *IMAGENET, *DENSE)
RUNTIMES = ("openvino", "onnxruntime")
LR = 0.002  # of the distillation: what benchmarks.distillation.recovery found best for ResNet-56


@dataclass(frozen=True)
class Material:
    """A network with the images of one run.

    Attributes:
        model: the original.
        images: that calibrate.
        val, test: labelled.
        example: an input that is timed; None where a runtime can't take the network.
    """

    model: nn.Module
    images: Any
    val: Any
    test: Any
    example: Tensor | None


def material(args: argparse.Namespace, network: str, seed: int) -> Material:
    if network in DENSE:
        return dense_material(args, network, seed)
    networks = Networks(args.data, args.models, args.imagenet)
    model, example = networks.teacher(network), networks.example(network)
    if network in CIFAR:
        few = networks.split(network, seed, 256).few
        return Material(model, few, networks.cifar("train", slice(45000, 50000)), networks.cifar("test", slice(None)), example)
    images, labels = networks.pictures()
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(images)))
    few, val, test = order[:100], order[100:400], order[400:]
    return Material(model, images[few], (images[val], labels[val]), (images[test], labels[test]), example)


def dense_material(args: argparse.Namespace, network: str, seed: int) -> Material:
    task = DENSE[network](args.data, getattr(args, network.partition("_")[0]))
    train = task.loader("train")
    chosen = np.random.RandomState(seed).permutation(len(train.dataset))[:128].tolist()
    images = DataLoader(Subset(train.dataset, chosen), task.batch_size, collate_fn=train.collate_fn)
    example = task.example()[0] if network == "camvid_network" else None
    return Material(
        dense_teacher(network, args.data, task.folder, args.work), images, task.loader("val"), task.loader("test"), example
    )


@cache
def dense_teacher(network: str, data: Path, folder: Path, work: Path) -> nn.Module:
    return teacher(DENSE[network](data, folder), work)


def measured(args: argparse.Namespace, network: str, drop: float, seed: int, key: str) -> Row:
    parts = material(args, network, seed)
    training: dict[str, Any] = {}
    if args.steps:
        pixels, _ = Networks(args.data, args.models).cifar("train", slice(45000))
        training = {"train": pixels, "recipe": ghostify.Recipe.preset("short", steps=args.steps, lr=LR, seed=seed)}

    def compress() -> ghostify.CompressionResult:
        folder = args.work / "compress_drops" / "".join(c if c.isalnum() else "_" for c in key)
        return ghostify.compress(
            parts.model,
            parts.images,
            max_drop=drop,
            val=parts.val,
            out=folder,
            seed=seed,
            **training,
        )

    about = {"network": network, "max_drop": drop, "seed": seed, "steps": args.steps, "about": versions_line()}
    try:
        result, _ = seconds_of(compress)
    except ghostify.ArgumentError as error:
        return {**about, "refused": str(error)}
    report = result.report
    assert report.chosen is not None
    step = report.steps[report.chosen]
    before, after = (score_of(model, parts.test) for model in (parts.model, result.student))
    return {
        **about,
        "measure": report.measure,
        "images": report.images,
        "judging": report.judging,
        "flops_share": step.flops_share,
        "params_share": step.params_share,
        "latency_share": latency_shares(parts, result.student),
        "val_drop": step.drop,
        "val_drop_at_most": step.drop_at_most,
        "test": before,
        "test_drop": before - after,
        "probes": sum(step.score is not None for step in report.steps),
        "seconds": round(report.seconds, 1),
    }


def score_of(model: nn.Module, data: Any) -> float:
    """The measure that compress judges by, on labelled data."""
    return float(next(iter(ghostify.evaluate(model, data).scores().values())))


def latency_shares(parts: Material, student: nn.Module) -> dict[str, float]:
    """The student's time for one input as a share of the original's, in turns."""
    if parts.example is None:
        return {}
    timers = {name: RuntimeTimer(runtime_named(name)) for name in RUNTIMES if runtime_named(name).missing() is None}
    return {name: round(timer.beside(parts.model, student, parts.example).share, 4) for name, timer in timers.items()}


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet", "bccd", "camvid", "work")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--drop", nargs="+", type=float, default=list(DROPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="of distillation; CIFAR-10's networks alone")
    add_threads(parser)
    args = parse(parser)
    done = {row["key"] for row in read_lines(RESULTS)}
    for seed in range(args.seeds):
        for network in args.network:
            for drop in args.drop:
                key = json.dumps([network, drop, seed, args.steps])
                if key in done or (args.steps and network not in CIFAR):
                    continue
                row = {"key": key, **measured(args, network, drop, seed, key)}
                append_line(RESULTS, row)
                print(json.dumps(row), flush=True)


def tables() -> dict[str, str]:
    """A line for each network and drop: size reached, drops, and how many runs kept the promise on test images."""
    groups: dict[tuple[str, float, int], list[Row]] = {}
    for row in read_lines(RESULTS):
        groups.setdefault((row["network"], row["max_drop"], row["steps"]), []).append(row)
    order = sorted(groups, key=lambda group: (NETWORKS.index(group[0]), group[2], group[1]))
    header = [
        "network",
        "allowed",
        "steps",
        "FLOPs",
        "time: " + ", ".join(RUNTIMES),
        "drop on val, points",
        "known to be at most",
    ]
    header += ["drop on test", "within on test", "refused"]
    return {"compress_drops": table(header, [_line(*group, groups[group]) for group in order])}


def _line(network: str, drop: float, steps: int, rows: Sequence[Row]) -> list[str]:
    good = [row for row in rows if "refused" not in row]

    def points(name: str) -> str:
        return mean_and_range([100 * row[name] for row in good]) if good else ""

    shares = [[row["latency_share"][runtime] for row in good if runtime in row["latency_share"]] for runtime in RUNTIMES]
    return [
        *(network, f"{100 * drop:g}", str(steps)),
        percent(sum(row["flops_share"] for row in good) / len(good)) if good else "",
        ", ".join(percent(sum(values) / len(values)) for values in shares if values),
        *(points(name) for name in ("val_drop", "val_drop_at_most", "test_drop")),
        f"{sum(row['test_drop'] <= drop for row in good)} of {len(good)}" if good else "",
        str(len(rows) - len(good) or ""),
    ]


if __name__ == "__main__":
    main()
