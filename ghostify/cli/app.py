"""The command line: parses, calls the library, prints."""

import sys
from typing import Annotated

import typer

from ..errors import GhostifyError
from ..version import __version__
from .calibration import calibrate
from .compression import compress
from .conversion import convert, report
from .demo import demo
from .deployment import bench, export
from .distillation import recover
from .exploration import pareto, sensitivity, sweep
from .zoo import zoo

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Convert convolutional networks to Ghost modules, and say what it saves.",
)


def main() -> None:
    """Entry point: a bad argument ends with one sentence and exit code 2."""
    try:
        app()
    except GhostifyError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(2)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"ghostify {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in (report, compress, convert, calibrate, sensitivity, recover, sweep, pareto, export, bench, zoo, demo):
    app.command()(command)
