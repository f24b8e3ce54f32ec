"""The settings of a conversion."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from ..common.checks import check_choice, whole_number
from ..common.files import PlainData
from ..errors import ArgumentTypeError
from ..layers.ratios import check_dw_size, check_ratio
from .target import Budget

SKIPS = {
    "first": "first convolution: the paper keeps it (skip=() converts it too)",
    "pooled": "works on a globally pooled 1x1 map: no FLOPs to save (skip=('first',) converts it too)",
    "last": "gives the network's outputs, which don't follow from each other (skip=('first', 'pooled') converts it too)",
}


@dataclass(frozen=True)
class GhostConfig:
    """The settings of a conversion, checked when they are made. :func:`ghostify.convert` explains each of them.

    Raises:
        ArgumentError, ArgumentTypeError: a setting is out of range, or of another type.
    """

    ratio: float = 2
    dw_size: int = 3
    cheap: str = "depthwise"
    ratios: Mapping[str, float | None] = field(default_factory=dict)
    linear_ratio: float | None = None
    skip: Sequence[str] = tuple(SKIPS)
    min_channels: int = 8
    round_to: int | None = None
    init: str = "warm"
    seed: int = 0

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_dw_size(self.dw_size)
        check_choice("cheap", self.cheap, ("depthwise", "pointwise", "auto", "absorbed"))
        check_choice("init", self.init, ("warm", "random"))
        if not isinstance(self.ratios, Mapping):
            raise ArgumentTypeError(f"ratios must map names or globs to ratios, not {self.ratios!r}")
        for pattern, ratio in self.ratios.items():
            if not isinstance(pattern, str):
                raise ArgumentTypeError(f"ratios must have names or globs as keys, not {pattern!r}")
            if ratio is not None:
                check_ratio(ratio, f"ratios[{pattern!r}]")
        if self.linear_ratio is not None:
            check_ratio(self.linear_ratio, "linear_ratio")
        if isinstance(self.skip, str) or not isinstance(self.skip, Sequence):
            raise ArgumentTypeError(f"skip must be a sequence of {', '.join(map(repr, SKIPS))}, not {self.skip!r}")
        for role in self.skip:
            check_choice("skip", role, tuple(SKIPS))
        for name, least in (("min_channels", 1), ("round_to", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None or name != "round_to":
                # a plain int, which the recipe's JSON can hold
                object.__setattr__(self, name, whole_number(name, value, least))

    def to_dict(self, budget: Budget | None = None) -> PlainData:
        """The settings as plain data, for the recipe; where there was a target, its budget in place of the one ratio."""
        settings = {**asdict(self), "ratios": dict(self.ratios), "skip": list(self.skip)}
        return settings if budget is None else {**settings, "ratio": None, "budget": asdict(budget)}
