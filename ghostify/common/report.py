"""What all reports have in common: a frame, CSV, JSON, Markdown, HTML and text that tell the same rows."""

import html
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .files import also_write
from .text import plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult


@dataclass(frozen=True)
class TextTable:
    """A table to be read: titles of columns, and rows of texts.

    Attributes:
        titles: of the columns.
        rows: a text for each column.
        right: positions of the columns whose texts stand on the right in a terminal, as numbers do.
        fold: long texts go on in the next line in a terminal; otherwise they are cut off.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()
    fold: bool = False

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for position, title in enumerate(self.titles):
            justify: JustifyMethod = "right" if position in self.right else "left"
            table.add_column(title, justify=justify, overflow="fold" if self.fold else "ellipsis")
        for row in self.rows:
            table.add_row(*row)
        yield table


@dataclass(frozen=True)
class ReportBase(ABC):
    """A report says what its rows and columns are, its totals, and how it is drawn; the rest follows from these.

    ``to_frame``, ``to_csv`` and ``to_json`` give the values, ``to_markdown`` and ``to_html`` the same rows as texts.
    ``print(report)`` and rich print a table that fits a terminal, then the totals.

    Attributes:
        index: the column that the rows of a frame are named by; None for numbers.
        width: characters of a line of text.
        indent: spaces that a level of JSON is indented by; None for one line.
    """

    index: ClassVar[str | None] = None
    width: ClassVar[int] = 110
    indent: ClassVar[int | None] = None

    @abstractmethod
    def summary(self) -> str:
        """The totals in a few lines."""

    @abstractmethod
    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """A figure of the rows, drawn into ``ax``, or into a new figure."""

    @abstractmethod
    def _records(self) -> Sequence[Mapping[str, object]]:
        """The values of each row by column."""

    def _columns(self) -> Sequence[str]:
        """Names of the columns: by default those of the rows, in order of their first appearance."""
        return list(dict.fromkeys(name for record in self._records() for name in record))

    def _table(self) -> TextTable:
        """The rows as texts, for Markdown and HTML."""
        columns = self._columns()
        return TextTable(columns, [[_text(record.get(name)) for name in columns] for record in self._records()])

    def _printed(self) -> TextTable | None:
        """The table that is printed, if any."""
        return self._table()

    def to_frame(self) -> "pd.DataFrame":
        """A DataFrame with the rows of this report."""
        import pandas as pd

        frame = pd.DataFrame(list(self._records()), columns=list(self._columns()))
        return frame if self.index is None else frame.set_index(self.index)

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows as CSV, with a line of column names.

        Args:
            path: also write it to this file, which is replaced as a whole.

        Raises:
            ArgumentError: the file can't be written.
        """
        return also_write(path, self.to_frame().to_csv(index=self.index is not None, lineterminator="\n"))

    def to_json(self, path: str | Path | None = None) -> str:
        """All of the report as JSON.

        Args:
            path: also write it to this file, which is replaced as a whole.

        Raises:
            ArgumentError: the file can't be written.
        """
        return also_write(path, json.dumps(self._json_values(), indent=self.indent))

    def _json_values(self) -> dict[str, object]:
        return asdict(self)

    def to_markdown(self, path: str | Path | None = None) -> str:
        """The rows and the totals in Markdown.

        Args:
            path: also write it to this file, which is replaced as a whole.

        Raises:
            ArgumentError: the file can't be written.
        """
        table = self._table()
        lines = [_markdown_line(table.titles), "|" + " --- |" * len(table.titles), *map(_markdown_line, table.rows)]
        return also_write(path, "\n".join([*lines, "", *(f"{line}  " for line in self.summary().splitlines())]))

    def to_html(self, path: str | Path | None = None) -> str:
        """The rows and the totals as an HTML fragment.

        Args:
            path: also write it to this file, which is replaced as a whole.

        Raises:
            ArgumentError: the file can't be written.
        """
        return also_write(path, self._repr_html_())

    def _repr_html_(self) -> str:
        table = self._table()
        head = "".join(f"<th>{html.escape(title)}</th>" for title in table.titles)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
        lines = "<br>".join(html.escape(line) for line in self.summary().splitlines())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{lines}</p>"

    def __str__(self) -> str:
        return plain(self, self.width)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        printed = self._printed()
        if printed is not None:
            yield printed
            yield ""
        yield self.summary()


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
