"""Plain text of what rich draws."""

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def plain(renderable: "RenderableType", width: int = 110) -> str:
    """The text in lines of at most ``width`` characters, without colours or styles, in a notebook as well."""
    from rich.console import Console

    file = StringIO()
    Console(file=file, width=width, color_system=None, force_terminal=False, force_jupyter=False).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).rstrip()
