"""What the texts of options become: targets, ratios, shapes, numbers."""

from ..errors import ArgumentError


def parse_target(text: str) -> dict[str, str]:
    """``flops=0.5`` as ``{"flops": "0.5"}``, which :func:`ghostify.convert` checks."""
    metric, equals, value = text.partition("=")
    if not equals:
        raise ArgumentError(f"--target {text!r} is not of the form flops=0.5, params=5M or latency=12ms")
    return {metric.strip(): value.strip()}


def parse_share(option: str, text: str) -> float:
    """``1%`` or ``0.01`` as 0.01; ``option`` is the option's name, for the error."""
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        rest = text
        share = 0.0
    if rest:
        raise ArgumentError(f"{option} {text!r} is not of the form 1% or 0.01")
    return share


def parse_ratios(settings: list[str] | None) -> dict[str, float | None]:
    """Each ``GLOB=RATIO`` as an item, None for ``GLOB=dense``."""
    ratios: dict[str, float | None] = {}
    for setting in settings or []:
        pattern, equals, value = setting.rpartition("=")
        try:
            ratios[pattern] = None if value == "dense" else float(value)
        except ValueError:
            equals = ""
        if not equals or not pattern:
            raise ArgumentError(f"--set {setting!r} is not of the form GLOB=RATIO or GLOB=dense")
    return ratios


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """``1x3x224x224`` as ``(1, 3, 224, 224)``; None where the option is missing."""
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError as error:
        raise ArgumentError(f"--input {text!r} is not of the form 1x3x224x224") from error


def parse_numbers(option: str, text: str) -> list[float]:
    """Numbers with commas between them; ``option`` is the option's name, for the error."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ArgumentError(f"{option} {text!r} is not numbers with commas between them") from error


def parse_whole_numbers(option: str, text: str) -> list[int]:
    """Whole numbers with commas between them; ``option`` is the option's name, for the error."""
    numbers = parse_numbers(option, text)
    for number in numbers:
        if number != int(number):
            raise ArgumentError(f"{option} must be whole numbers, not {number:g}")
    return [int(number) for number in numbers]
