"""Accuracy after distillation, beside torch-pruning at equal FLOPs, with the same recipe and the same budget.

    python -m benchmarks.distillation.recovery --data DIR --models FILE [--section NAME ...] [--threads 2]

DIR holds cifar10.npz and the networks' weights, FILE builds the two networks. Both sides begin with what 256 training images
gave them: ghostify shares 53 % of the FLOPs out by the sensitivities of its sites and calibrates (``uniform``: the same with
one ratio), torch-pruning prunes globally, and its norms are re-estimated. Both are then distilled from the original by
``ghostify.distill`` on training images 0 to 44,999, without labels, in bf16 autocast where the processor has it, which takes
two thirds of the time. ``grid`` chooses each arm's learning rate at 100 steps on training images 45,000 to 49,999, seed 0;
the arm keeps it. All else is measured on the 10,000 test images. ``paper``: all sites at ratio 2, with labels, as many steps
as one has the time for. Each trial is one line of results/recovery.jsonl; one that stands there is not run again, and several
processes may run side by side, each with a ``--network`` and an ``--arm`` of its own, ``grid`` first. The same script runs on
a GPU, where ``long`` takes all arms.
"""

import argparse
import copy
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.conversion.budget import sensitivities, uniform_ratio
from benchmarks.distillation.recovery_trials import ARMS, RATES, RESULTS, SECTIONS, Trial
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import DEVICE, versions_line
from benchmarks.harness.networks import CIFAR, Networks, percent, predict
from benchmarks.harness.pruning import Setting, prune
from benchmarks.harness.pruning_choice import best_setting
from benchmarks.harness.results import Row, append_line, read_lines
from ghostify.common.files import write_text
from ghostify.distillation.precision import cpu_computes_in

SHARE = 0.53


def kept_json(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """What takes minutes to find and is the same for each seed."""
    path = folder / "settings" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text())


def start(networks: Networks, network: str, arm: str, seed: int, images: int) -> nn.Module:
    """The student or the pruned network before any distillation."""
    teacher = networks.teacher(network)
    few, few_labels, _, _ = networks.split(network, seed, min(images, 256))
    if arm in ("taylor", "l2", "random"):
        return pruned(networks, network, arm, seed, few, few_labels)
    student = converted(networks, network, arm, seed, few)
    if arm == "from scratch":
        torch.manual_seed(seed)
        for module in student.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    else:
        ghostify.calibrate(student.to(DEVICE), copy.deepcopy(teacher).to(DEVICE), few, seed=seed)
    return student.cpu().eval()


def pruned(networks: Networks, network: str, importance: str, seed: int, few: Tensor, few_labels: Tensor) -> nn.Module:
    name = f"{network}_{importance}_{SHARE}"
    setting = kept_json(networks.data, name, lambda: asdict(best_setting(networks, network, importance, SHARE)))
    teacher, example = networks.teacher(network), networks.example(network)
    model = prune(teacher, example, SHARE, importance, Setting(**setting), few, few_labels, seed)
    assert model is not None
    ghostify.reestimate_norms(model, few)
    return model.eval()


def converted(networks: Networks, network: str, arm: str, seed: int, few: Tensor) -> nn.Module:
    teacher = networks.teacher(network)
    if arm == "ratio 2":
        return ghostify.convert(teacher, 2, cheap="auto")
    if arm == "uniform":
        name = f"{network}_uniform_{SHARE}"
        ratio = float(kept_json(networks.data, name, lambda: uniform_ratio(networks, network, SHARE)))
        return ghostify.convert(teacher, ratio, cheap="auto")
    return ghostify.convert(
        teacher,
        target={"flops": SHARE},
        cheap="auto",
        sensitivity=sensitivities(networks, network, seed, few),
        example_input=networks.example(network),
        seed=seed,
    )


def kept_start(networks: Networks, trial: Trial) -> nn.Module:
    """Calibration takes longer than 100 steps, and many trials begin alike."""
    networks.teacher(trial.network)  # makes the classes known that the file names
    path = networks.data / "students" / f"{trial.network}_{trial.arm}_{trial.seed}_{min(trial.images, 256)}.pt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        torch.save(start(networks, trial.network, trial.arm, trial.seed, trial.images), part)
        part.rename(path)
    return torch.load(path, weights_only=False)


def best_rate(network: str, arm: str, rows: list[Row]) -> float:
    grid = [row for row in rows if (row["section"], row["network"], row["arm"]) == ("grid", network, arm)]
    if len(grid) < len(RATES):
        raise SystemExit(f"--section grid first: {network} {arm} has {len(grid)} of {len(RATES)} rates")
    return float(max(grid, key=lambda row: row["held_out_top1"])["lr"])


def measured(networks: Networks, trial: Trial, lr: float) -> Row:
    student = kept_start(networks, trial)
    seconds = distilled(networks, trial, student, lr) if trial.steps else 0.0
    row: Row = {"flops_share": round(networks.flops_share(trial.network, student), 4), "seconds": round(seconds, 1)}
    if trial.section in ("grid", "paper"):
        row["held_out_base"] = teacher_top1(networks, trial.network, True)
        row["held_out_top1"] = top1(networks, trial.network, student, True)
    if trial.section != "grid":
        row["base"] = teacher_top1(networks, trial.network, False)
        row["top1"] = top1(networks, trial.network, student, False)
    return row


def distilled(networks: Networks, trial: Trial, student: nn.Module, lr: float) -> float:
    """Seconds of distillation; the student is changed."""
    order = torch.randperm(45000, generator=torch.Generator().manual_seed(trial.seed))[: trial.images]
    recipe = ghostify.Recipe(
        steps=trial.steps,
        lr=lr,
        seed=trial.seed,
        precision="bf16" if DEVICE == "cuda" or cpu_computes_in("bf16") else "fp32",
        channels_last=DEVICE == "cuda",
        **trial.options,
    )
    train = networks.cifar("train", order.numpy())
    return ghostify.distill(student, networks.teacher(trial.network), train, recipe=recipe, progress=True).seconds


@cache
def teacher_top1(networks: Networks, network: str, choose: bool) -> float:
    return top1(networks, network, networks.teacher(network), choose)


def top1(networks: Networks, network: str, model: nn.Module, choose: bool) -> float:
    """On the test images, or to ``choose`` by on training images 45,000 to 49,999."""
    split = networks.split(network, 0, 1, choose)
    model = copy.deepcopy(model).eval().to(DEVICE)
    answers = predict(model, split.images.to(DEVICE), 50 if DEVICE == "cpu" else 1000)
    return percent(answers.cpu() == split.labels)


def wanted(args: argparse.Namespace, trial: Trial) -> bool:
    return all(getattr(args, name) in (None, getattr(trial, name)) for name in ("network", "arm", "steps", "lr"))


def main() -> None:
    parser = argument_parser(__doc__, "data", "models")
    parser.add_argument("--section", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--network", choices=CIFAR)
    parser.add_argument("--arm", choices=(*ARMS, "from scratch", "ratio 2"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float, help="of section paper, where each takes long")
    add_threads(parser)
    args = parse(parser)
    networks = Networks(args.data, args.models)
    about = f"{torch.cuda.get_device_name() if DEVICE == 'cuda' else 'CPU'}, {versions_line()}"
    for section in args.section:
        for trial in SECTIONS[section]():
            rows = read_lines(RESULTS)
            if not wanted(args, trial) or trial.key in {row["key"] for row in rows}:
                continue
            lr = trial.lr or best_rate(trial.network, trial.arm, rows)
            names = ("section", "network", "arm", "steps", "seed", "images")
            facts = {name: getattr(trial, name) for name in names}
            row = {"key": trial.key, **facts, "lr": lr, **measured(networks, trial, lr), "about": about}
            append_line(RESULTS, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
