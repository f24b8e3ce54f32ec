"""What a conversion aims at beyond its ratios: a target, or speed on a runtime."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.images import ImageData, Replayed
from .layer_seconds import LayerSeconds
from .sensitivity_table import Sensitivity
from .target import Target


@dataclass(frozen=True)
class ConversionGoal:
    """What a conversion aims at, and what tells how to get there. :func:`ghostify.convert` explains each of them.

    Attributes:
        target: what the student may cost; None without.
        sensitivity: the measurement that the target goes by; None for images, or a guess from the weights.
        images: images that tell what spans lose; None without.
        only_if_faster: the runtime on which each Ghost module is to be faster; None where speed does not matter.
        example_input: what is rehearsed, counted or timed for, in any form that the user may give; None for what the model is
            known to take.
        progress: show a progress bar while sites are timed or spans are surveyed.
        seconds: what layers take on the runtime that a target of latency is meant for; None for Ghost modules, each of which
            is timed by itself.
    """

    target: Target | None
    sensitivity: Sensitivity | None
    images: ImageData | None
    only_if_faster: str | None
    example_input: object
    progress: bool
    seconds: LayerSeconds | None = None

    @classmethod
    def parse(
        cls,
        *,
        ratio: float | None,
        target: Mapping[str, float | str] | None,
        sensitivity: Sensitivity | str | Path | None,
        images: ImageData | None,
        only_if_faster: str | None,
        example_input: object,
        progress: bool,
    ) -> "ConversionGoal":
        """The goal from the arguments of :func:`ghostify.convert`.

        Raises:
            ArgumentError, ArgumentTypeError: arguments that exclude each other, or one that lacks what it goes with; a target
                or a sensitivity that can't be used.
        """
        parsed = None if target is None else Target.parse(target)
        if parsed is not None and ratio is not None:
            raise ArgumentError(f"give either ratio={ratio!r} or target={dict(target or {})!r}, not both")
        if parsed is None and sensitivity is not None:
            raise ArgumentError("sensitivity goes with target=, which is missing")
        if images is not None and parsed is None:
            raise ArgumentError("images goes with target=, which is missing")
        if images is not None and sensitivity is not None:
            raise ArgumentError("give either images or sensitivity, which was measured on images, not both")
        if isinstance(images, Iterator):  # a plan may be made more than once
            images = Replayed(images)
        return cls(parsed, _read_sensitivity(sensitivity), images, only_if_faster, example_input, progress)


def _read_sensitivity(sensitivity: object) -> Sensitivity | None:
    if sensitivity is None or isinstance(sensitivity, Sensitivity):
        return sensitivity
    if isinstance(sensitivity, (str, Path)):
        return Sensitivity.load(sensitivity)
    raise ArgumentTypeError(f"sensitivity must come from ghostify.sensitivity, not {type(sensitivity).__name__}")
