"""What fold() folded, and what it had to leave."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..common.text import plain

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

KINDS = ("norm", "channel order", "identity")


@dataclass(frozen=True)
class FoldedPart:
    """One layer, and what became of it.

    Attributes:
        name: qualified name of the layer.
        kind: ``"norm"``, ``"channel order"`` of a Ghost module, or ``"identity"`` (dropout and stochastic depth included).
        reason: why it had to stay; None where it is folded.
    """

    name: str
    kind: str
    reason: str | None = None


@dataclass(frozen=True)
class FoldReport:
    """What :func:`ghostify.fold` folded and what it could not; ``folded.folding``."""

    parts: tuple[FoldedPart, ...]

    def to_frame(self) -> "pd.DataFrame":
        """A DataFrame with a row for each layer."""
        import pandas as pd

        return pd.DataFrame([asdict(part) for part in self.parts], columns=["name", "kind", "reason"])

    def summary(self) -> str:
        """The totals in a few lines."""
        lines = []
        for kind in KINDS:
            mine = [part for part in self.parts if part.kind == kind]
            left = Counter(part.reason for part in mine if part.reason)
            told = "".join(f"; {count} left: {reason}" for reason, count in left.most_common(3))
            if mine:
                lines.append(f"{kind:14s}{len(mine) - sum(left.values())} of {len(mine)} folded{told}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table

        left = [part for part in self.parts if part.reason]
        if left:
            table = Table(box=None, pad_edge=False)
            for title in ("left as it was", "kind", "reason"):
                table.add_column(title)
            for part in left:
                table.add_row(part.name, part.kind, part.reason)
            yield table
            yield ""
        yield self.summary()
