"""What ghostify.distill costs over a bare loop of the same work, on CIFAR-10's ResNet-56 at batch 128.

    python -m benchmarks.distillation.overhead --models FILE [--rounds 5] [--steps 8]

The bare loop runs the teacher, the student, the two losses, backward and the optimizer on tensors that are there. Both run in
turns within one process; results/recovery_overhead.json has each round's seconds a step and the median of their ratios, by
device: a GPU where there is one. The loader alone is timed as well: images a second without any network.
"""

import platform
import statistics
import time

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import DEVICE, seconds_of, synchronize
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import cifar_builders
from benchmarks.harness.results import Row, read_json, write_json
from ghostify.deployment.timing import machine
from ghostify.distillation.feature_places import Recorder, find_places
from ghostify.inputs.augment import mirrored_and_shifted
from ghostify.inputs.batches import split_batch
from ghostify.inputs.sources import make_source
from ghostify.losses import feature_matching, logit_distillation

RESULTS = "recovery_overhead.json"


def bare(student: nn.Module, teacher: nn.Module, images: Tensor, steps: int) -> float:
    """Seconds a step."""
    places = find_places(student, teacher, lambda model: model(images[:2]))
    recorders = [Recorder(model, places) for model in (student, teacher)]
    optimizer = create_optimizer_v2(student, opt="sgd", lr=0.01, weight_decay=1e-4)
    student.train()
    start = time.perf_counter()
    for step in range(steps):
        x = images[128 * step : 128 * (step + 1)]
        for recorder in recorders:
            recorder.listen()
        with torch.no_grad():
            goal = teacher(x)
        logits = student(x)
        maps = [[seen.maps for calls in recorder.take().values() for seen in calls] for recorder in recorders]
        loss = logit_distillation(logits, goal) + feature_matching(*maps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    synchronize()
    seconds = (time.perf_counter() - start) / steps
    for recorder in recorders:
        recorder.close()
    return seconds


def loader_speed(teacher: nn.Module) -> float:
    """Images a second of the loader alone."""
    source = make_source(torch.randn(12800, 3, 32, 32), teacher, 128, training=True)

    def read() -> int:
        return sum(len(mirrored_and_shifted(split_batch(item, teacher)[0])) for item in source.batches)

    count, seconds = seconds_of(read)
    return count / seconds


def main() -> None:
    parser = argument_parser(__doc__, "models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    args = parse(parser)
    builders = cifar_builders(args.models)
    torch.manual_seed(0)
    teacher = builders.resnet56().eval().to(DEVICE)
    student = ghostify.convert(teacher, 2, cheap="auto")
    images = torch.randn(128 * args.steps, 3, 32, 32)
    recipe = ghostify.Recipe(steps=args.steps)
    rows: list[Row] = []
    for turn in range(args.rounds + 1):
        plain = bare(student, teacher, images.to(DEVICE), args.steps)
        ours = ghostify.distill(student, teacher, images, recipe=recipe).seconds / args.steps
        if turn:  # the first warms up
            rows.append({"bare_s": round(plain, 4), "distill_s": round(ours, 4), "ratio": round(ours / plain, 4)})
            print(rows[-1], flush=True)
    facts = {
        "rows": rows,
        "median_ratio": statistics.median(row["ratio"] for row in rows),
        "loader_images_per_s": round(loader_speed(teacher)),
        "training_images_per_s": round(128 / statistics.median(row["distill_s"] for row in rows)),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    write_json(RESULTS, {**read_json(RESULTS), DEVICE: facts})
    print(facts)


def tables() -> dict[str, str]:
    lines = []
    for facts in read_json(RESULTS).values():
        ratios = [row["ratio"] for row in facts["rows"]]
        speeds = [f"{facts[key]:,}" for key in ("training_images_per_s", "loader_images_per_s")]
        lines.append([facts["machine"], f"{facts['median_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", *speeds])
    header = ["machine", "times as long as the bare loop", "images/s", "images/s of the loader alone"]
    return {"recovery_overhead": table(header, lines)}


if __name__ == "__main__":
    main()
