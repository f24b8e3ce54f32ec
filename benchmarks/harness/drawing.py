"""The style of the figures in docs/."""

import matplotlib as mpl

from benchmarks.harness.results import ROOT

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INPUT, INTRINSIC, GHOST, INK = "#9aa5b1", "#2563a8", "#9cc3ea", "#20262e"
BLOCK, PRUNED, PRUNED_LIGHT, RANDOM = "#173f6b", "#c2571a", "#e3a06b", "#b0b0b0"
LINE = {"marker": "o", "ms": 4, "lw": 1.6}

__all__ = ["BLOCK", "GHOST", "INK", "INPUT", "INTRINSIC", "LINE", "PRUNED", "PRUNED_LIGHT", "RANDOM", "plain", "plt", "save"]


def plain(ax: Axes, original: float) -> None:
    """A light grid, no frame, and a dotted line at the accuracy of the original."""
    ax.axhline(original, color=INK, lw=1, ls=":")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, name: str, dpi: int = 110) -> None:
    figure.savefig(ROOT / "docs" / f"{name}.png", dpi=dpi)
