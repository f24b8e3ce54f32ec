"""Settings of the closed form, of the gradient steps and of the images; each checks its own values."""

from dataclasses import dataclass

from ..common.checks import positive_number, whole_number


@dataclass(frozen=True)
class Settings:
    """How the closed form works; :func:`ghostify.calibrate` explains what it offers, the others are for ablations.

    Raises:
        ArgumentError, ArgumentTypeError: a ridge or seed out of its range.
    """

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
    seed: int = 0  # of the positions that are sampled; taken modulo 2**32

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0) % 2**32)
        object.__setattr__(self, "ridge", positive_number("ridge", self.ridge))


@dataclass(frozen=True)
class BlockSettings:
    """``steps`` of :class:`RotatedAdam` for each block; each moves a parameter by about ``lr`` of its size, less and less
    along a cosine.

    Raises:
        ArgumentError, ArgumentTypeError: a number of steps, learning rate or seed out of its range.
    """

    steps: int = 400
    lr: float = 2e-2
    rotate: bool = True  # False is plain Adam, for an ablation
    seed: int = 0  # of the order of batches; taken modulo 2**32

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_number("steps", self.steps, 1))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0) % 2**32)
        object.__setattr__(self, "lr", positive_number("lr", self.lr))


@dataclass(frozen=True)
class ImageSettings:
    """How many images are read, and how often each is used.

    Raises:
        ArgumentError, ArgumentTypeError: a number out of its range.
    """

    max_images: int = 1024
    batch_size: int = 32
    copies: int | None = None  # mirrored and shifted copies of each image; None leaves it to the method

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_images", whole_number("max_images", self.max_images, 1))
        object.__setattr__(self, "batch_size", whole_number("batch_size", self.batch_size, 1))
        if self.copies is not None:
            object.__setattr__(self, "copies", whole_number("copies", self.copies, 0))
