"""Figures of results: bars, dots, curves, heat map, Pareto front. They take numbers and labels and know no report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

DENSE, GHOST = "#9aa5b1", "#2563a8"


@dataclass(frozen=True)
class Points:
    """Points of one colour, with their label in the legend."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    colour: str = GHOST


@dataclass(frozen=True)
class Bars:
    """Bars of one colour, one for each group, with their label in the legend.

    Attributes:
        label: in the legend.
        heights: NaN where a group has no such bar.
        low, high: ends of a thin line over each bar; None for no lines.
    """

    label: str
    heights: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def grouped_bars(
    groups: Sequence[str],
    bars: Sequence[Bars],
    *,
    title: str,
    ylabel: str,
    unit: str = "",
    whole: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Bars side by side in groups.

    Args:
        groups: names of the groups.
        bars: those of one colour each.
        title, ylabel: of the axes.
        unit: of the heights, after their decimal prefix.
        whole: heights are whole numbers.
        ax: axes to draw into; a new figure otherwise.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if ax is None:
        _, ax = plt.subplots(figsize=(max(6.4, min(16, 0.5 * len(groups) * len(bars) + 2)), 3.8), layout="constrained")
    width = 0.85 / len(bars)
    for number, one in enumerate(bars):
        x = [group + (number - (len(bars) - 1) / 2) * width for group in range(len(groups))]
        colour = (DENSE, GHOST)[number] if len(bars) == 2 else f"C{number % 10}"
        ax.bar(x, one.heights, width=0.94 * width, color=colour, label=one.label)
        if one.low is not None and one.high is not None:
            ax.vlines(x, one.low, one.high, color="#333333", lw=1)
    ax.set_xticks(range(len(groups)), groups)
    ax.set(ylabel=ylabel)
    ax.yaxis.set_major_formatter(EngFormatter(unit=unit))
    if whole:
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return _framed(ax, title)


def paired_bars(
    behind: Sequence[float],
    front: Sequence[float],
    labels: tuple[str, str],
    *,
    title: str,
    ylabel: str,
    ax: "Axes | None" = None,
) -> "Axes":
    """Two bars for each site in execution order, one before the other.

    Args:
        behind, front: heights of the bars, as many of the one as of the other.
        labels: of the bars behind and of those in front.
        title, ylabel: of the axes.
        ax: axes to draw into; a new figure otherwise.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if ax is None:
        ax = _site_axes(len(behind))
    ax.bar(range(len(behind)), behind, width=0.85, color=DENSE, label=labels[0])
    ax.bar(range(len(front)), front, width=0.85, color=GHOST, label=labels[1])
    ax.yaxis.set_major_formatter(EngFormatter())
    ax.set(xlabel="site, in execution order", ylabel=ylabel)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.01)
    return _framed(ax, title)


def paired_dots(
    before: Sequence[float],
    after: Sequence[float],
    labels: tuple[str, str],
    *,
    title: str,
    ylabel: str,
    ax: "Axes | None" = None,
) -> "Axes":
    """Two dots for each site in execution order.

    Args:
        before, after: heights of the dots, as many of the one as of the other.
        labels: of the dots before and of those after.
        title, ylabel: of the axes.
        ax: axes to draw into; a new figure otherwise.
    """
    if ax is None:
        ax = _site_axes(len(before))
    ax.plot(range(len(before)), before, "o", color=DENSE, label=labels[0])
    ax.plot(range(len(after)), after, "o", color=GHOST, label=labels[1])
    ax.set(xlabel="site, in execution order", ylabel=ylabel, ylim=(0, None))
    ax.margins(x=0.01)
    return _framed(ax, title)


def training_curves(loss: Points, score: Points | None, *, title: str, ax: "Axes | None" = None) -> "Axes":
    """A loss against steps, and on an axis of its own a score from 0 to 1.

    Args:
        loss: its label names the axis on the left.
        score: its label names the axis on the right; None for no such axis.
        title: of the axes.
        ax: axes to draw into; a new figure otherwise.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    ax.set(xlabel="step", ylabel=loss.label)
    lines = ax.plot(loss.x, loss.y, color=DENSE, marker="o", ms=3, label=loss.label)
    if score is not None:
        right = ax.twinx()
        lines += right.plot(score.x, score.y, color=GHOST, marker="o", ms=3, label=f"{score.label}, validation")
        right.set_ylabel(score.label)
        right.yaxis.set_major_formatter(PercentFormatter(1))
        right.spines[["top"]].set_visible(False)
    _framed(ax, title)
    ax.legend(handles=lines, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return ax


def heat_map(
    cells: "np.ndarray",
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    title: str,
    label: str,
    logarithmic: bool = False,
    low_is_dark: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """A heat map of sites, from left to right, and ratios, from bottom to top.

    Args:
        cells: (ratios, sites); NaN where there is no value, but somewhere there is one.
        columns, rows: names of the sites and of the ratios.
        title: of the axes.
        label: of the colours.
        logarithmic: colours follow the logarithm, over four decades at most.
        low_is_dark: small values are dark in place of large ones.
        ax: axes to draw into; a new figure otherwise.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import LogNorm

    if ax is None:
        size = (max(6.4, min(18, 0.2 * len(columns) + 2)), 2.4 + 0.3 * len(rows))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    norm = None
    if logarithmic:
        top = np.nanmax(cells)
        norm = LogNorm(max(np.nanmin(cells), top * 1e-4, 1e-12), max(top, 1e-11))
        cells = np.clip(cells, norm.vmin, None)
    image = ax.imshow(cells, aspect="auto", origin="lower", cmap="Blues_r" if low_is_dark else "Blues", norm=norm)
    ax.figure.colorbar(image, ax=ax, label=label, pad=0.01)
    step = max(1, len(columns) // 60)
    ax.set_xticks(range(0, len(columns), step), columns[::step], rotation=90, fontsize=7)
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlabel="site", ylabel="ratio")
    ax.set_title(title, loc="left")
    return ax


def pareto_plot(
    groups: Sequence[Points],
    front: Points,
    original: Points,
    *,
    xlabel: str,
    ylabel: str,
    unit: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """A score from 0 to 1 against a cost: points, a line of steps through the Pareto front, a star for the original.

    Args:
        groups: points to be told apart.
        front: from the lowest cost to the highest.
        original: of each network that there is, one point.
        xlabel, ylabel: of the axes.
        unit: of the cost, after its decimal prefix.
        ax: axes to draw into; a new figure otherwise.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, PercentFormatter

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for group in groups:
        ax.plot(group.x, group.y, "o", ms=5, alpha=0.8, color=group.colour, label=group.label)
    ax.plot(front.x, front.y, "-", color=front.colour, lw=1, zorder=1, label=front.label, drawstyle="steps-post")
    ax.plot(original.x, original.y, "*", ms=12, color=original.colour, mec="#333333", label=original.label)
    ax.xaxis.set_major_formatter(EngFormatter(unit=unit))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return ax


def _site_axes(sites: int) -> "Axes":
    """Axes of a new figure, wider for more sites."""
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(max(6.4, min(16, 0.16 * sites + 2)), 3.8), layout="constrained")[1]


def _framed(ax: "Axes", title: str) -> "Axes":
    """The title on the left, the legend above on the right, and no lines around."""
    ax.set_title(title, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return ax
