"""Walk through a student's sites in execution order, with the teacher beside it, and fit each on its converted prefix."""

from collections.abc import Collection

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..common.calls import Arguments, captured
from ..graph.sites import is_listed
from ..graph.tracing import Part, trace
from ..layers.patterns import lookup
from .fit_state import FitState
from .part_fit import PartFit, lies_in


class NetworkFit:
    """Fits the sites of a student in place, part by part."""

    def __init__(self, state: FitState):
        self.state = state
        self.visited: set[str] = set()

    def run(self, calls: Collection[Arguments]) -> None:
        """Go through the whole network, given the arguments of a forward pass for each batch."""
        parts = [trace(model, is_listed, lambda m: lookup(m) is not None) for model in (self.state.student, self.state.teacher)]
        self.parts = [{part.name + "|" + part.entry: part for part in found} for found in parts]
        self._inside("", calls, calls)
        for name, site in self.state.sites.items():
            if name not in self.state.results:
                self.state.keep_warm_start(site, "never runs in evaluation mode")

    def _inside(self, name: str, student_calls: Collection[Arguments], teacher_calls: Collection[Arguments]) -> None:
        """Go through the parts that lie in the module ``name``, given its calls."""
        for key, part in self.parts[0].items():
            other = self.parts[1].get(key)
            if key in self.visited or not lies_in(part.entry, name) or not self._has_sites(part):
                continue
            self.visited.add(key)
            if other is None:
                continue
            if part.entry == name:
                self._part(part, other, student_calls, teacher_calls)
            else:
                inner = [
                    captured(model, name, part.entry, calls)
                    for model, calls in ((self.state.student, student_calls), (self.state.teacher, teacher_calls))
                ]
                if len(inner[0]) == len(inner[1]):
                    pairs = [_matched(mine, theirs) for mine, theirs in zip(*inner, strict=True) if _numel(theirs)]
                    if pairs:
                        self._part(part, other, [mine for mine, _ in pairs], [theirs for _, theirs in pairs])

    def _has_sites(self, part: Part) -> bool:
        prefix = part.name + "." if part.name else ""
        return any(site.startswith(prefix) or site == part.entry for site in self.state.sites)

    def _part(
        self, part: Part, other: Part, student_calls: Collection[Arguments], teacher_calls: Collection[Arguments]
    ) -> None:
        pair = PartFit(self.state, part, other, student_calls, teacher_calls, self._inside)
        try:
            pair.walk()
        finally:
            pair.close()


def _numel(arguments: Arguments) -> int:
    """Numbers in the smallest tensor: 0 where a detector found nothing."""
    return min((t.numel() for t in tree_leaves(arguments) if isinstance(t, Tensor)), default=1)


def _matched(mine: Arguments, theirs: Arguments) -> tuple[Arguments, Arguments]:
    """The teacher's in place of the student's where they can't be compared, as with a detector's proposals."""
    shapes = [[t.shape for t in tree_leaves(arguments) if isinstance(t, Tensor)] for arguments in (mine, theirs)]
    return (mine, theirs) if shapes[0] == shapes[1] else (theirs, theirs)
