"""Walk through a student's sites in execution order, with the teacher beside it, and fit each on its converted prefix."""

from collections.abc import Collection

from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..common.calls import Arguments, captured, of_each_size
from ..graph.find_sites import trace_layers
from ..graph.tracing import Part, lies_in
from ..graph.usage import has_hooks
from .fit_state import FitState
from .part_fit import PartFit
from .part_pair import PairedCalls, PartPair


class NetworkFit:
    """Fits the sites of a student in place, part by part.

    Args:
        state: the two networks, the settings and the results.
        calls: the arguments of a forward pass for each batch.
    """

    def __init__(self, state: FitState, calls: Collection[Arguments]):
        self.state, self.calls = state, calls
        self.visited: set[str] = set()
        sizes = of_each_size(calls)
        self.student_parts, self.teacher_parts = (
            {part.name + "|" + part.entry: part for part in trace_layers(model, *sizes)}
            for model in (state.student, state.teacher)
        )

    def run(self) -> None:
        """Go through the whole network."""
        self._inside("", PairedCalls(self.calls, self.calls))
        for name, site in self.state.due.items():
            if name not in self.state.results:
                self.state.keep_warm_start(site, "never runs in evaluation mode")

    def _inside(self, name: str, calls: PairedCalls) -> None:
        """Go through the parts that lie in the module ``name``, given its calls."""
        for key, part in self.student_parts.items():
            if key in self.visited or not lies_in(part.entry, name) or not self._has_sites(part):
                continue
            self.visited.add(key)
            teacher_part = self.teacher_parts.get(key)
            if teacher_part is None:
                continue
            is_asked_for = part.entry == name and not has_hooks(self.state.student.get_submodule(name))
            inner = calls if is_asked_for else self._calls_of(part.entry, name, calls)
            if inner is not None:
                self._part(part, teacher_part, inner)

    def _calls_of(self, inner: str, outer: str, calls: PairedCalls) -> PairedCalls | None:
        """The calls of a module while an outer one runs; None where student and teacher can't be compared."""
        of_student = captured(self.state.student, outer, inner, calls.student)
        of_teacher = captured(self.state.teacher, outer, inner, calls.teacher)
        if len(of_student) != len(of_teacher):
            return None
        both = [_matched(student, teacher) for student, teacher in zip(of_student, of_teacher, strict=True) if _numel(teacher)]
        return PairedCalls([student for student, _ in both], [teacher for _, teacher in both]) if both else None

    def _has_sites(self, part: Part) -> bool:
        prefix = part.name + "." if part.name else ""
        return any(site.startswith(prefix) or site == part.entry for site in self.state.due)

    def _part(self, student_part: Part, teacher_part: Part, calls: PairedCalls) -> None:
        pair = PartPair(self.state, student_part, teacher_part, calls)
        try:
            PartFit(pair, self.state, self._inside).run()
        finally:
            pair.close()


def _numel(arguments: Arguments) -> int:
    """Numbers in the smallest tensor: 0 where a detector found nothing."""
    return min((t.numel() for t in tree_leaves(arguments) if isinstance(t, Tensor)), default=1)


def _matched(student: Arguments, teacher: Arguments) -> tuple[Arguments, Arguments]:
    """The teacher's in place of the student's where they can't be compared, as with a detector's proposals."""
    shapes = [[t.shape for t in tree_leaves(arguments) if isinstance(t, Tensor)] for arguments in (student, teacher)]
    return (student, teacher) if shapes[0] == shapes[1] else (teacher, teacher)
