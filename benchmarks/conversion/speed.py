"""Seconds and memory to convert a model, beside torch-pruning building a pruner and taking its step, in one process.

    python -m benchmarks.conversion.speed [--rounds 5]

Both get the same freshly built torchvision model and are timed in turn, A B A B; the table gives medians and the median of
the ratios. Theirs changes the model in place; ours makes a copy by default, so in-place and random-init times stand beside.
Peak extra memory is the growth of the process while converting, over the size of the model's parameters. Writes
results/convert_speed.json. torch-pruning and psutil are imported where they are used, since tables are made without them.
"""

import gc
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context

import torch
import torchvision
from torch import nn

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import seconds_of, versions
from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "convert_speed.json"
MODELS = {"resnet18": 5, "resnet50": 10, "densenet121": 10, "mobilenet_v2": 5}  # and the ratio we aim for


def convert(model: nn.Module) -> object:
    return ghostify.convert(model)


def convert_inplace(model: nn.Module) -> object:
    return ghostify.convert(model, inplace=True)


def convert_random(model: nn.Module) -> object:
    """Structure alone, as for training from scratch."""
    return ghostify.convert(model, init="random")


def prune(model: nn.Module) -> object:
    """A global magnitude pruner: dependency graph, importance, one step."""
    import torch_pruning as tp

    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, 3, 224, 224),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.3,
        global_pruning=True,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)],
    )
    pruner.step()
    return pruner


def timed(call: Callable[[nn.Module], object], name: str) -> float:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    gc.collect()
    return seconds_of(lambda: call(model))[1]


def peak_memory(name: str) -> float:
    """Bytes by which a fresh process grows at most while converting, over the bytes of the model."""
    import psutil

    model = torchvision.models.get_model(name).eval()
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    process, peak, running = psutil.Process(), 0, True
    ghostify.convert(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)), skip=("first",))  # imports and thread pools
    gc.collect()
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while running:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    student = ghostify.convert(model)
    running = False
    watcher.join()
    del student
    return (peak - before) / size


def measured(name: str, rounds: int) -> Row:
    with get_context("spawn").Pool(1) as fresh:
        memory = fresh.apply(peak_memory, (name,))
    calls = (convert, prune, convert_inplace, convert_random)
    turns = [[timed(call, name) for call in calls] for _ in range(rounds + 1)][1:]  # the first warms up
    ours, theirs, inplace, random = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    ratios = sorted(turn[1] / turn[0] for turn in turns)
    return {
        "model": name,
        "ghostify_s": round(ours, 3),
        "torch_pruning_s": round(theirs, 3),
        "ghostify_inplace_s": round(inplace, 3),
        "ghostify_random_init_s": round(random, 3),
        "times_faster": round(statistics.median(ratios), 1),
        "lowest": round(ratios[0], 1),
        "highest": round(ratios[-1], 1),
        "goal": MODELS[name],
        "extra_memory_over_model": round(memory, 2),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    rows = []
    for name in MODELS:
        rows.append(measured(name, args.rounds))
        print(rows[-1])
    about = {**versions(), "torch_pruning": "1.6.1", "threads": 2, "rounds": args.rounds}
    write_json(RESULTS, {"about": about, "rows": rows})


def tables() -> dict[str, str]:
    lines = [
        [
            row["model"],
            f"{row['ghostify_s']:.2f} s",
            f"{row['ghostify_inplace_s']:.2f} s",
            f"{row['ghostify_random_init_s']:.2f} s",
            f"{row['torch_pruning_s']:.2f} s",
            f"{row['times_faster']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})",
            f"{row['extra_memory_over_model']:.1f}",
        ]
        for row in read_json(RESULTS)["rows"]
    ]
    header = ["model", "ghostify", "in place", "random init", "torch-pruning", "times faster (range)"]
    return {"speed": table([*header, "peak extra memory / model"], lines)}


if __name__ == "__main__":
    main()
