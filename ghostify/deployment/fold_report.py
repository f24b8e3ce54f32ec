"""The report of folding: the layers that are folded, and those that had to stay."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from ..common.pickling import named_by_package
from ..common.report import ReportBase, TextTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("norm", "channel order", "identity")


@named_by_package
@dataclass(frozen=True)
class FoldedPart:
    """One layer, folded or left.

    Attributes:
        name: qualified name of the layer.
        kind: ``"norm"``, ``"channel order"`` of a Ghost module, or ``"identity"`` (dropout and stochastic depth included).
        reason: why it had to stay; None where it is folded.
    """

    name: str
    kind: str
    reason: str | None = None


@named_by_package
@dataclass(frozen=True)
class FoldReport(ReportBase):
    """What :func:`ghostify.fold` folded and what it could not; a folded network has it as ``folding``.

    Attributes:
        parts: one entry for each layer that could be folded.
        verified_on: shapes of the inputs on which outputs were compared with the student's, such as ``"2x3x64x64"``; empty
            where no input was known.
    """

    parts: tuple[FoldedPart, ...]
    verified_on: str = ""

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Bars of how many layers of each kind are folded, and how many had to stay.

        Args:
            ax: axes to draw into; a new figure otherwise.
        """
        from ..common.figures import Bars, grouped_bars

        folded = [sum(part.kind == kind and part.reason is None for part in self.parts) for kind in KINDS]
        left = [sum(part.kind == kind and part.reason is not None for part in self.parts) for kind in KINDS]
        bars = [Bars("left", left), Bars("folded", folded)]
        total = f"{sum(folded)} of {len(self.parts)} layers folded"
        return grouped_bars(KINDS, bars, title=total, ylabel="layers", whole=True, ax=ax)

    def summary(self) -> str:
        """The totals in a few lines."""
        lines = []
        for kind in KINDS:
            parts = [part for part in self.parts if part.kind == kind]
            left = Counter(part.reason for part in parts if part.reason)
            reasons = "".join(f"; {count} left: {reason}" for reason, count in left.most_common(3))
            if parts:
                lines.append(f"{kind:14s}{len(parts) - sum(left.values())} of {len(parts)} folded{reasons}")
        if not lines:
            return "nothing to fold: no norm, no Ghost module, no identity"
        unknown = "no input is known that the network runs on, only Ghost modules are folded: give example_input"
        return "\n".join([*lines, f"verified on {self.verified_on}" if self.verified_on else f"not verified: {unknown}"])

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [asdict(part) for part in self.parts]

    def _columns(self) -> Sequence[str]:
        return [field.name for field in fields(FoldedPart)]

    def _printed(self) -> TextTable | None:
        """The layers that had to stay."""
        left = [(part.name, part.kind, part.reason) for part in self.parts if part.reason]
        return TextTable(("left as it was", "kind", "reason"), left) if left else None
