"""What a command prints and draws."""

import sys
from pathlib import Path
from typing import Any

from ..errors import ArgumentError


def check_figure(path: Path) -> None:
    """Before long work: a format that can't be drawn."""
    import matplotlib.backend_bases

    formats = matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ArgumentError(f"--plot {str(path)!r} can't be written: its name must end in one of {', '.join(sorted(formats))}")


def save_figure(draw: Any, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    try:
        draw().figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--plot {str(path)!r} can't be written: {error}") from error


def print_report(told: Any, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        print(told.to_json())
    elif sys.stdout.isatty():
        Console().print(told)
    else:
        print(told)
