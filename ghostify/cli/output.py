"""What a command prints and draws."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..common.report import ReportBase


def check_figure(path: Path | None) -> None:
    """Before long work, refuse a file name of a format that can't be drawn; None is no figure."""
    if path is None:
        return
    import matplotlib.backend_bases

    formats = matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ArgumentError(f"--plot {str(path)!r} can't be written: its name must end in one of {', '.join(sorted(formats))}")


def save_figure(draw: "Callable[[], Axes]", path: Path) -> None:
    """Draw without a screen, and write the figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("Agg")
    try:
        figure = draw().figure
        assert isinstance(figure, Figure)  # not a part of another figure, which matplotlib's types allow for
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--plot {str(path)!r} can't be written: {error}") from error


def print_report(report: "ReportBase", as_json: bool, written: Path | None = None) -> None:
    """Print a report, coloured on a terminal, and the file that the command wrote; or the report alone, as JSON."""
    from rich.console import Console

    if as_json:
        print(report.to_json())
        return
    if sys.stdout.isatty():
        Console().print(report)
    else:
        print(report)
    if written is not None:
        print(f"written: {written}")
