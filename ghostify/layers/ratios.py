"""How many intrinsic channels and what rank a ratio gives; checks of ratios and kernel sizes."""

import math

import torch
from torch import Tensor

from ..errors import ArgumentError, ArgumentTypeError


def intrinsic_channels(out_channels: int, ratio: float, groups: int = 1, round_to: int = 1) -> int:
    """m = ceil(n / s), the same number from each group; rounded up to a multiple of ``round_to``."""
    step = math.lcm(groups, round_to)
    m = groups * math.ceil(out_channels / groups / check_ratio(ratio) - 1e-9)
    return math.ceil(m / step) * step


def paper_sources(ghosts: int, ratio: float) -> Tensor:
    """The source of each ghost map in the paper's order: each intrinsic map in turn has ceil(s) - 1 ghosts."""
    return torch.arange(ghosts) // max(1, math.ceil(ratio) - 1)


def check_ratio(ratio: object, name: str = "ratio") -> float:
    """``ratio`` as a float.

    Raises:
        ArgumentTypeError: it is no number.
        ArgumentError: it is not above 1, infinite or NaN; the message calls it ``name``.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)):
        raise ArgumentTypeError(f"{name} must be a number above 1, not {ratio!r}")
    if not (math.isfinite(ratio) and ratio > 1):
        raise ArgumentError(f"{name} must be a finite number above 1, not {ratio!r}")
    return float(ratio)


def check_dw_size(dw_size: object) -> int:
    """``dw_size``, the kernel size of a depthwise operation.

    Raises:
        ArgumentTypeError: it is no whole number.
        ArgumentError: it is none of 1, 3, 5 and 7.
    """
    if isinstance(dw_size, bool) or not isinstance(dw_size, int):
        raise ArgumentTypeError(f"dw_size must be 1, 3, 5 or 7, not {dw_size!r}")
    if dw_size not in (1, 3, 5, 7):
        raise ArgumentError(f"dw_size must be 1, 3, 5 or 7, not {dw_size!r}")
    return dw_size
