"""Progress bars, on the error stream."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")


@contextmanager
def site_bar(title: str, total: int, shown: bool) -> Iterator[Callable[[str], None]]:
    """A bar that counts things, such as sites.

    Args:
        title: what is done, before the bar.
        total: how many things there are.
        shown: whether there is a bar.

    Yields:
        A function to call with the name of each thing that is done.
    """
    if not shown:
        yield lambda name: None
        return
    from rich.progress import MofNCompleteColumn

    with _bar(title, MofNCompleteColumn()) as bar:
        number = bar.add_task("", total=total)
        yield lambda name: bar.update(number, advance=1, description=name)


@contextmanager
def share_bar(title: str, shown: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar that fills up.

    Args:
        title: what is done, before the bar.
        shown: whether there is a bar.

    Yields:
        A function to call with the part that is done, from 0 to 1, and a text to show behind the bar.
    """
    if not shown:
        yield lambda part, text: None
        return
    from rich.progress import TaskProgressColumn

    with _bar(title, TaskProgressColumn()) as bar:
        number = bar.add_task("", total=1.0)
        yield lambda part, text: bar.update(number, completed=part, description=text)


def over_batches(batches: Iterable[T], total: int, shown: bool) -> Iterator[T]:
    """The batches, with a bar that goes when they are through; ``total`` is 0 where their number is not known."""
    if not shown:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(batches, "evaluating", total=total or None, console=Console(stderr=True), transient=True)


def _bar(title: str, amount: "ProgressColumn") -> "Progress":
    """A bar of rich's with a title before it, the amount that is done, the time left and a text behind it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), amount, TimeRemainingColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=Console(stderr=True))
