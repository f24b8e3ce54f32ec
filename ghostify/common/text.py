"""What rich draws, as plain text."""

from io import StringIO
from typing import Any


def plain(renderable: Any, width: int = 110) -> str:
    """Without colours or styles, wherever it is printed: in a notebook, too."""
    from rich.console import Console

    file = StringIO()
    Console(file=file, width=width, color_system=None, force_terminal=False, force_jupyter=False).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).rstrip()
