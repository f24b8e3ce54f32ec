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
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ghostify
from benchmarks.calibration.accuracy import percent, predict
from benchmarks.conversion.budget import Budgets
from benchmarks.harness.pruning import Setting, prune
from ghostify.common.costs import measure
from ghostify.common.files import write_text
from ghostify.distillation.precision import cpu_computes_in

RESULTS = Path(__file__).parents[1] / "results" / "recovery.jsonl"
NETWORKS = ("resnet56", "vgg16_bn")
ARMS = ("ghost", "taylor", "l2", "random", "uniform")
RATES = (0.0007, 0.002, 0.007, 0.02, 0.06)
SHARE = 0.53
PAPER_STEPS = {"resnet56": 4000, "vgg16_bn": 10000}
RATIOS = (1.25, 1.5, 2, 3, 4, 8)
EXAMPLE = torch.zeros(1, 3, 32, 32)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Trial:
    section: str
    network: str
    arm: str
    steps: int
    seed: int = 0
    lr: float | None = None  # None takes the arm's best of the grid
    images: int = 45000
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json.dumps([self.section, self.network, self.arm, self.steps, self.seed, self.lr, self.images, self.options])


def grid() -> Iterator[Trial]:
    for network in NETWORKS:
        for arm in ARMS:
            for lr in RATES:
                yield Trial("grid", network, arm, 100, lr=lr)


def main_trials() -> Iterator[Trial]:
    for steps, seeds in ((0, range(3)), (100, range(3)), (400, range(1))):
        for network in NETWORKS:
            for arm in ARMS:
                for seed in seeds:
                    yield Trial("main", network, arm, steps, seed)


def long() -> Iterator[Trial]:
    """The best arm of each side, by the grid; on a GPU all of them."""
    if DEVICE == "cuda":
        yield from (Trial("main", network, arm, 2000) for network in NETWORKS for arm in ARMS)
        return
    rows = [row for row in recorded() if row["section"] == "grid"]
    for network in NETWORKS:
        for side in (("ghost", "uniform"), ("taylor", "l2", "random")):
            tops = {
                arm: max((row["held_out_top1"] for row in rows if (row["network"], row["arm"]) == (network, arm)), default=0)
                for arm in side
            }
            yield Trial("main", network, max(tops, key=tops.__getitem__), 2000)


def rates() -> Iterator[Trial]:
    """The longest budget at a higher rate than 100 steps chose: they choose a low one where training begins near its end."""
    for network, ghost, pruned in (("resnet56", 0.007, 0.02), ("vgg16_bn", 0.002, 0.002)):
        yield Trial("rates", network, "ghost", 2000, lr=ghost)
        yield Trial("rates", network, "l2", 2000, lr=pruned)


def few() -> Iterator[Trial]:
    for network in NETWORKS:
        for arm in ("ghost", "taylor"):
            for images in (50, 500, 1000):
                yield Trial("few", network, arm, 500, images=images)


def scratch() -> Iterator[Trial]:
    """Random weights; those of the calibrated student are in ``main``."""
    for steps in (100, 400, 1000, 2000, 4000):
        yield Trial("scratch", "resnet56", "from scratch", steps, lr=0.1)


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def paper() -> Iterator[Trial]:
    """One ratio for all, labels, and steps for as many epochs as fit; the learning rate that does best on the held-out training
    images counts."""
    for network in NETWORKS:
        for lr in (0.02, 0.05):
            yield Trial("paper", network, "ratio 2", PAPER_STEPS[network], lr=lr, options={"labels": 0.5, "weight_decay": 5e-4})


SECTIONS = {"grid": grid, "main": main_trials, "long": long, "rates": rates, "few": few, "scratch": scratch, "paper": paper}


class Recovery(Budgets):
    def __init__(self, data: Path, models: Path):
        super().__init__(data, models, data)

    def best_setting(self, network: str, importance: str, share: float) -> Setting:
        find = super().best_setting
        return Setting(**self.kept(f"{network}_{importance}_{share}", lambda: asdict(find(network, importance, share))))

    def uniform_ratio(self, network: str, share: float) -> float:
        find = super().uniform_ratio
        return float(self.kept(f"{network}_uniform_{share}", lambda: find(network, share)))

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What takes minutes to find and is the same for each seed."""
        path = self.data / "settings" / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_text(path, json.dumps(make()))
        return json.loads(path.read_text())

    def start(self, network: str, arm: str, seed: int, images: int) -> nn.Module:
        """The student or the pruned network before any distillation."""
        teacher = self.teacher(network)
        few, labels, _, _ = self.split(network, seed, min(images, 256))
        if arm in ("taylor", "l2", "random"):
            setting = self.best_setting(network, arm, SHARE)
            pruned = prune(teacher, EXAMPLE, SHARE, arm, setting, few, labels, seed)
            assert pruned is not None
            ghostify.reestimate_norms(pruned, few)
            return pruned.eval()
        if arm == "ratio 2":
            student = ghostify.convert(teacher, 2, cheap="auto")
        elif arm == "uniform":
            student = self.uniform(network, SHARE)
        else:
            path = self.data / "sensitivities" / f"{network}_{seed}_{len(few)}.json"
            found = ghostify.sensitivity(teacher, few, RATIOS, cheap="auto", out=path)
            student = ghostify.convert(
                teacher, target={"flops": SHARE}, cheap="auto", sensitivity=found, example_input=EXAMPLE, seed=seed
            )
        if arm == "from scratch":
            torch.manual_seed(seed)
            for module in student.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        else:
            ghostify.calibrate(student.to(DEVICE), copy.deepcopy(teacher).to(DEVICE), few, seed=seed)
        return student.cpu().eval()

    def cached_start(self, trial: Trial, folder: Path) -> nn.Module:
        """Calibration takes longer than 100 steps, and many trials begin alike."""
        self.teacher(trial.network)  # makes the classes known that the file names
        path = folder / f"{trial.network}_{trial.arm}_{trial.seed}_{min(trial.images, 256)}.pt"
        if not path.exists():
            folder.mkdir(exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")
            torch.save(self.start(trial.network, trial.arm, trial.seed, trial.images), part)
            part.rename(path)
        return torch.load(path, weights_only=False)

    def best_rate(self, network: str, arm: str, rows: list[dict[str, Any]]) -> float:
        mine = [row for row in rows if (row["section"], row["network"], row["arm"]) == ("grid", network, arm)]
        if len(mine) < len(RATES):
            raise SystemExit(f"--section grid first: {network} {arm} has {len(mine)} of {len(RATES)} rates")
        return float(max(mine, key=lambda row: row["held_out_top1"])["lr"])

    def train(self, trial: Trial, student: nn.Module, lr: float) -> dict[str, Any]:
        teacher = self.teacher(trial.network)
        seconds = 0.0
        if trial.steps:
            order = torch.randperm(45000, generator=torch.Generator().manual_seed(trial.seed))[: trial.images]
            pixels = torch.from_numpy(self.arrays("x_train")[order.numpy()]).permute(0, 3, 1, 2).float() / 255
            train = (pixels, torch.from_numpy(self.arrays("y_train")[order.numpy()]))
            precision = "bf16" if DEVICE == "cuda" or cpu_computes_in("bf16") else "fp32"
            recipe = ghostify.Recipe(
                steps=trial.steps, lr=lr, seed=trial.seed, precision=precision, channels_last=DEVICE == "cuda", **trial.options
            )
            seconds = ghostify.distill(student, teacher, train, recipe=recipe, progress=True).seconds
        found = {
            "flops_share": round(measure(student, (EXAMPLE,)).flops / measure(teacher, (EXAMPLE,)).flops, 4),
            "seconds": round(seconds, 1),
        }
        if trial.section in ("grid", "paper"):
            found |= {f"held_out_{name}": value for name, value in self.top1(trial.network, student, choose=True).items()}
        return found if trial.section == "grid" else found | self.top1(trial.network, student, choose=False)

    def top1(self, network: str, student: nn.Module, choose: bool) -> dict[str, float]:
        """On the test images, or to ``choose`` by on training images 45,000 to 49,999: the original's and the student's."""
        return {"base": self.base(network, choose), "top1": self.hits(network, student, choose)}

    @cache  # noqa: B019
    def base(self, network: str, choose: bool) -> float:
        return self.hits(network, self.teacher(network), choose)

    def hits(self, network: str, model: nn.Module, choose: bool) -> float:
        _, _, images, labels = self.split(network, 0, 1, choose)
        judged = copy.deepcopy(model).eval().to(DEVICE)
        answers = predict(judged, images.to(DEVICE), 50 if DEVICE == "cpu" else 1000)
        return percent(answers.cpu() == labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--section", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--arm", choices=(*ARMS, "from scratch", "ratio 2"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float, help="of section paper, where each takes long")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Recovery(args.data, args.models)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    about = f"{device}, ghostify {ghostify.__version__}, torch {torch.__version__}, python {platform.python_version()}"
    for section in args.section:
        for trial in SECTIONS[section]():
            if any(getattr(args, name) not in (None, getattr(trial, name)) for name in ("network", "arm", "steps", "lr")):
                continue
            rows = recorded()
            if trial.key in {row["key"] for row in rows}:
                continue
            lr = trial.lr or bench.best_rate(trial.network, trial.arm, rows)
            found = bench.train(trial, bench.cached_start(trial, args.data / "students"), lr)
            names = ("section", "network", "arm", "steps", "seed", "images")
            row = {"key": trial.key, **{name: getattr(trial, name) for name in names}, "lr": lr, **found, "about": about}
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


if __name__ == "__main__":
    main()
