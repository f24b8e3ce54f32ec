"""Settings of the closed form and of the gradient steps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How the closed form works; :func:`ghostify.calibrate` explains what it offers, the others are for ablations."""

    ridge: float = 3e-2
    asymmetric: bool = True  # input from the converted prefix, not from the teacher
    residual: bool = True  # a branch repairs what its shortcut has lost
    choose: bool = True  # channels and sources from the data, not from the warm start
    refit: bool = True  # primary filters are solved for, not kept
    rank: bool = True  # linear ghosts from all intrinsic maps: the best filters of that rank, not those of some channels
    dense: bool = True  # layers that were not converted are refitted to what the teacher gives, too
    rounds: int = 2  # rounds that account for the activation
    auto: bool = False  # the cheap operation is decided by the data
    align: bool = False  # layers that are added to each other have the same intrinsic channels
    seed: int = 0


@dataclass(frozen=True)
class BlockSettings:
    """``steps`` of :class:`RotatedAdam` for each block; each moves a parameter by about ``lr`` of its size, less and less
    along a cosine."""

    steps: int = 400
    lr: float = 2e-2
    rotate: bool = True  # False is plain Adam, for an ablation
    seed: int = 0
