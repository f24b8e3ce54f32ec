"""Which students and pruned networks the benchmark of recovery trains, for how long and at which learning rates."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.machine import DEVICE
from benchmarks.harness.networks import CIFAR
from benchmarks.harness.results import read_lines

RESULTS = "recovery.jsonl"
ARMS = ("ghost", "taylor", "l2", "random", "uniform")
RATES = (0.0007, 0.002, 0.007, 0.02, 0.06)
PAPER_STEPS = {"resnet56": 4000, "vgg16_bn": 10000}


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
    for network in CIFAR:
        for arm in ARMS:
            for lr in RATES:
                yield Trial("grid", network, arm, 100, lr=lr)


def main_trials() -> Iterator[Trial]:
    for steps, seeds in ((0, range(3)), (100, range(3)), (400, range(1))):
        for network in CIFAR:
            for arm in ARMS:
                for seed in seeds:
                    yield Trial("main", network, arm, steps, seed)


def long() -> Iterator[Trial]:
    """The best arm of each side, by the grid; on a GPU all of them."""
    if DEVICE == "cuda":
        yield from (Trial("main", network, arm, 2000) for network in CIFAR for arm in ARMS)
        return
    rows = [row for row in read_lines(RESULTS) if row["section"] == "grid"]
    for network in CIFAR:
        for side in (("ghost", "uniform"), ("taylor", "l2", "random")):
            top1 = {
                arm: max((row["held_out_top1"] for row in rows if (row["network"], row["arm"]) == (network, arm)), default=0)
                for arm in side
            }
            yield Trial("main", network, max(top1, key=top1.__getitem__), 2000)


def rates() -> Iterator[Trial]:
    """The longest budget at a higher rate than 100 steps chose: they choose a low one where training begins near its end."""
    for network, ghost, pruned in (("resnet56", 0.007, 0.02), ("vgg16_bn", 0.002, 0.002)):
        yield Trial("rates", network, "ghost", 2000, lr=ghost)
        yield Trial("rates", network, "l2", 2000, lr=pruned)


def few() -> Iterator[Trial]:
    for network in CIFAR:
        for arm in ("ghost", "taylor"):
            for images in (50, 500, 1000):
                yield Trial("few", network, arm, 500, images=images)


def scratch() -> Iterator[Trial]:
    """Random weights; those of the calibrated student are in ``main``."""
    for steps in (100, 400, 1000, 2000, 4000):
        yield Trial("scratch", "resnet56", "from scratch", steps, lr=0.1)


def paper() -> Iterator[Trial]:
    """One ratio for all, labels, and steps for as many epochs as fit; the learning rate that does best on the held-out training
    images counts."""
    for network in CIFAR:
        for lr in (0.02, 0.05):
            yield Trial("paper", network, "ratio 2", PAPER_STEPS[network], lr=lr, options={"labels": 0.5, "weight_decay": 5e-4})


SECTIONS = {"grid": grid, "main": main_trials, "long": long, "rates": rates, "few": few, "scratch": scratch, "paper": paper}
