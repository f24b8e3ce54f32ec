"""Progress bars, on the error stream."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def site_bar(task: str, total: int, shown: bool) -> Iterator[Callable[[str], None]]:
    """What is given is called with the name of each thing that is done."""
    if not shown:
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(task), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        number = bar.add_task("", total=total)
        yield lambda name: bar.update(number, advance=1, description=name)


def over_batches(batches: Iterable[Any], total: int, shown: bool) -> Iterator[Any]:
    """The batches, with a bar that goes when they are through; ``total`` is 0 where their number is not known."""
    if not shown:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(batches, "evaluating", total=total or None, console=Console(stderr=True), transient=True)
