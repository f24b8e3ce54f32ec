"""What ghostify.distill costs over a bare loop of the same work, on CIFAR-10's ResNet-56 at batch 128.

    python -m benchmarks.distillation.overhead --models FILE [--rounds 5] [--steps 8]

The bare loop runs the teacher, the student, the two losses, backward and the optimizer on tensors that are there. Both run in
turns within one process; results/recovery_overhead.json has each round's seconds a step and the median of their ratios, by
device: a GPU where there is one. The loader alone is timed as well: images a second without any network.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

import ghostify
from ghostify.deployment.timing import machine
from ghostify.distillation.feature_places import Recorder, find_places
from ghostify.inputs.augment import mirrored_and_shifted
from ghostify.inputs.sources import make_source, split_batch
from ghostify.losses import feature_matching, logit_distillation

RESULTS = Path(__file__).parents[1] / "results" / "recovery_overhead.json"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def bare(student: nn.Module, teacher: nn.Module, images: torch.Tensor, steps: int) -> float:
    places = find_places(student, teacher, lambda model: model(images[:2]))
    mine, theirs = (Recorder(model, places) for model in (student, teacher))
    optimizer = create_optimizer_v2(student, opt="sgd", lr=0.01, weight_decay=1e-4)
    student.train()
    start = time.perf_counter()
    for step in range(steps):
        x = images[128 * step : 128 * (step + 1)]
        mine.listen(), theirs.listen()
        with torch.no_grad():
            goal = teacher(x)
        given = student(x)
        maps = [[seen.maps for found in recorder.take().values() for seen in found] for recorder in (mine, theirs)]
        loss = logit_distillation(given, goal) + feature_matching(*maps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize()
    taken = (time.perf_counter() - start) / steps
    mine.close(), theirs.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    spec: Any = importlib.util.spec_from_file_location("cifar_models", args.models)
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    torch.manual_seed(0)
    teacher = builders.resnet56().eval().to(DEVICE)
    student = ghostify.convert(teacher, 2, cheap="auto")
    images = torch.randn(128 * args.steps, 3, 32, 32)
    recipe = ghostify.Recipe(steps=args.steps)
    rows = []
    for turn in range(args.rounds + 1):
        plain = bare(student, teacher, images.to(DEVICE), args.steps)
        ours = ghostify.distill(student, teacher, images, recipe=recipe).seconds / args.steps
        if turn:  # the first warms up
            rows.append({"bare_s": round(plain, 4), "distill_s": round(ours, 4), "ratio": round(ours / plain, 4)})
            print(rows[-1], flush=True)
    source = make_source(torch.randn(12800, 3, 32, 32), teacher, 128, training=True)
    start = time.perf_counter()
    seen = sum(len(mirrored_and_shifted(split_batch(item, teacher)[0])) for item in source.batches)
    synchronize()
    facts = {
        "rows": rows, "median_ratio": statistics.median(row["ratio"] for row in rows),
        "loader_images_per_s": round(seen / (time.perf_counter() - start)),
        "training_images_per_s": round(128 / statistics.median(row["distill_s"] for row in rows)),
        "machine": machine(), "threads": torch.get_num_threads(), "python": platform.python_version(),
    }  # fmt: skip
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found[DEVICE] = facts
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(facts)


if __name__ == "__main__":
    main()
