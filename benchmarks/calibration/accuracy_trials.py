"""Which students and pruned networks the benchmark of calibration measures."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.networks import CIFAR, IMAGENET, NETWORKS


@dataclass(frozen=True)
class Trial:
    """One student, or one pruned network.

    ``arm``: absorbed, depthwise, pointwise, auto; taylor, l2, random or best (pruning); one of APART (apart).
    """

    section: str
    network: str
    arm: str
    method: str = "least_squares"  # or block, pruning, apart
    seed: int = 0
    images: int = 256
    ratio: float = 2
    share: float | None = None  # of the FLOPs, in place of the ratio
    variant: str = ""  # what an ablation changes
    options: dict[str, Any] = field(default_factory=dict)  # of Settings, BlockSettings and convert

    @property
    def key(self) -> str:
        size = self.ratio if self.share is None else {"flops": self.share}
        return json.dumps([self.network, self.arm, self.method, self.seed, self.images, size, self.variant])


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


SEEDS = (0, 1, 2)
GOALS = {"resnet56": 0.53, "vgg16_bn": 0.53, "resnet18": 0.56, "mobilenet_v2": 0.62}
SHARES = (0.5, 0.7, 0.3, 0.4, 0.6, 0.8)
ONE_RATIO = "one ratio for all"
APART = (
    "their widths, their choice",
    "their widths, their choice, our refit",
    "their widths, our choice, our refit",
    "our widths, their choice",
    "our widths, their choice, our refit",
)
"""torch-pruning kept to channels of free spans: whose widths, whose channels, norms re-estimated or readers refitted."""


def absorbed_trials() -> Iterator[Trial]:
    """Absorbed ghosts beside pruning at each network's goal: closed form, choice apart from refit, then block steps."""
    for seed in SEEDS:
        for network in NETWORKS:
            yield at_share("absorbed", network, "absorbed", seed=seed)
            yield at_share("absorbed", network, "best", "pruning", seed)
    for seed in SEEDS:
        for network in NETWORKS:
            yield at_share("absorbed", network, "absorbed", seed=seed, variant=ONE_RATIO)
            yield from (at_share("absorbed", network, arm, "apart", seed) for arm in APART)
    for seed in SEEDS:
        yield from (at_share("absorbed", network, "absorbed", "block", seed) for network in NETWORKS)


def share_trials() -> Iterator[Trial]:
    """Accuracy against FLOPs, seed by seed, closed form first.

    Block steps take up to an hour each on ImageNet's networks: there absorbed ghosts get them for one seed, and paper ghosts
    none.
    """
    for seed in SEEDS:
        for arm, method in (("absorbed", "least_squares"), ("best", "pruning"), ("auto", "least_squares")):
            for share in SHARES:
                yield from (at_share("shares", network, arm, method, seed, share) for network in NETWORKS)
        for arm in ("absorbed", "auto"):
            for share in SHARES:
                yield from (at_share("shares", network, arm, "block", seed, share) for network in CIFAR)
    for share in SHARES:
        yield from (at_share("shares", network, "absorbed", "block", 0, share) for network in IMAGENET)


def at_share(
    section: str,
    network: str,
    arm: str,
    method: str = "least_squares",
    seed: int = 0,
    share: float | None = None,
    variant: str = "",
) -> Trial:
    images = 256 if network in CIFAR else 250
    return Trial(section, network, arm, method, seed, images, share=share or GOALS[network], variant=variant)


SECTIONS = {
    "main": main_trials,
    "absorbed": absorbed_trials,
    "shares": share_trials,
    "seeds": seed_trials,
    "ablation": ablation_trials,
    "curves": curve_trials,
}
