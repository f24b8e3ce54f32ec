"""Which students and pruned networks the benchmark of calibration measures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.networks import CIFAR, IMAGENET


@dataclass(frozen=True)
class Trial:
    """One student, or one pruned network. ``arm``: depthwise, pointwise, auto; or taylor, l2, random (pruning)."""

    section: str
    network: str
    arm: str
    method: str = "least_squares"  # or block, or pruning
    seed: int = 0
    images: int = 256
    ratio: float = 2
    variant: str = ""  # what an ablation changes
    options: dict[str, Any] = field(default_factory=dict)  # of Settings, BlockSettings and convert

    @property
    def key(self) -> str:
        return json.dumps([self.network, self.arm, self.method, self.seed, self.images, self.ratio, self.variant])


def main_trials() -> Iterator[Trial]:
    """One seed of each network, without the blocks of ImageNet's, which take half an hour each."""
    for network in (*CIFAR, *IMAGENET):
        yield from (t for t in network_trials(network, 0) if network in CIFAR or t.method != "block")


def seed_trials() -> Iterator[Trial]:
    """What the main section leaves out: ImageNet's blocks, then two more seeds."""
    yield from (Trial("main", network, "auto", "block", 0, 250) for network in IMAGENET)
    for seed in (1, 2):
        for network in (*CIFAR, *IMAGENET):
            yield from network_trials(network, seed)


def network_trials(network: str, seed: int) -> Iterator[Trial]:
    images = 256 if network in CIFAR else 250
    for arm in ("depthwise", "auto"):
        yield Trial("main", network, arm, seed=seed, images=images)
    yield Trial("main", network, "auto", "block", seed, images)
    for arm in ("taylor", "l2", "random"):
        yield Trial("main", network, arm, "pruning", seed, images)


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "input from the teacher (symmetric)": {"asymmetric": False},
    "target without the shortcut's loss": {"residual": False},
    "channels as in the warm start": {"choose": False},
    "channels by position": {"choose": False, "init": "random"},
    "filters kept, norms and cheap kernels fitted": {"refit": False},
    "linear ghosts from channels, not of the best rank": {"rank": False},
    "layers that were not converted left as they are": {"dense": False},
    "activation not accounted for": {"rounds": 0},
    "activation: 6 rounds": {"rounds": 6},
    "ridge 1e-5": {"ridge": 1e-5},
    "ridge 1e-4": {"ridge": 1e-4},
    "ridge 1e-2": {"ridge": 1e-2},
    "ridge 1e-1": {"ridge": 1e-1},
    "two passes over the sites": {"passes": 2},
    "the same channels intrinsic in all layers of a sum (align)": {"align": True},
    "and mirrored images": {"copies": 1},
    "and three copies, mirrored and shifted": {"copies": 3},
    "norms re-estimated alone at the end": {"plain_norms": True},
}
BLOCK_CHANGES: dict[str, dict[str, Any]] = {
    "block": {},
    "block, no copies of the images": {"copies": 0},
    "block, 100 steps": {"steps": 100},
    "block, 800 steps": {"steps": 800},
    "block, lr 0.005": {"lr": 0.005},
    "block, lr 0.05": {"lr": 0.05},
    "block, plain Adam": {"rotate": False},
    "block, norms re-estimated alone at the end": {"plain_norms": True},
    "block, the same channels intrinsic in all layers of a sum (align)": {"align": True},
    "block, from the warm start": {"refit": False, "choose": False},
}


def ablation_trials() -> Iterator[Trial]:
    for arm in ("depthwise", "pointwise", "auto"):
        for variant, options in CHANGES.items():
            if arm != "auto" or not options or "align" in options:
                yield Trial("ablation", "resnet56", arm, variant=variant, options=options)
    for variant, options in BLOCK_CHANGES.items():
        yield Trial("ablation", "resnet56", "pointwise", "block", variant=variant, options=options)


def curve_trials() -> Iterator[Trial]:
    for network in CIFAR:
        for images in (50, 250, 1000):
            for arm, method in (("depthwise", "least_squares"), ("auto", "least_squares"), ("auto", "block")):
                yield Trial("images", network, arm, method, images=images)
            yield Trial("images", network, "taylor", "pruning", images=images)
        for ratio in (1.5, 2, 3, 4):
            for arm, method in (("depthwise", "least_squares"), ("auto", "least_squares"), ("auto", "block")):
                yield Trial("ratios", network, arm, method, ratio=ratio)
            for arm in ("taylor", "l2"):
                yield Trial("ratios", network, arm, "pruning", ratio=ratio)


SECTIONS = {"main": main_trials, "seeds": seed_trials, "ablation": ablation_trials, "curves": curve_trials}
