"""Plain text of what rich draws, and of errors."""

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


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 300 characters; the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
