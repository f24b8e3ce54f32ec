"""Tables in Markdown."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def mean_and_range(values: Sequence[float]) -> str:
    """Such as ``92.34 (92.10 to 92.51)``; the value alone where all are equal."""
    mean = sum(values) / len(values)
    return f"{mean:.2f}" if max(values) == min(values) else f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})"


def percent(share: float) -> str:
    return f"{share:.1%}"
