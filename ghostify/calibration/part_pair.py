"""One part of student and teacher side by side: their graphs, their runs, and which nodes correspond."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx, nn

from ..common.calls import Arguments, batch_size_of
from ..common.copying import become
from ..graph.paths import depends_on, with_ancestors
from ..graph.running import GraphRun
from ..graph.sites import Site
from ..graph.sums import Sum, find_sum
from ..graph.tracing import Part
from .fit_state import FitState


@dataclass(frozen=True)
class PairedCalls:
    """The arguments of the same calls of a module in student and teacher, batch by batch."""

    student: Collection[Arguments]
    teacher: Collection[Arguments]


@dataclass(frozen=True)
class PairedSums:
    """The sum of a branch with its shortcut, in student and teacher."""

    student: Sum
    teacher: Sum


class PartPair:
    """A part of the student and the same part of the teacher.

    Args:
        state: the networks, and the sites that are to be fitted.
        student_part, teacher_part: the two graphs of the part.
        calls: of the module that the graphs start from.

    Attributes:
        student, teacher: the values of each graph, batch by batch.
        student_modules, teacher_modules: the modules that each graph calls, by the names it calls them.
        images: how many images reach the part.
    """

    def __init__(self, state: FitState, student_part: Part, teacher_part: Part, calls: PairedCalls):
        self.state, self.part, self.teacher_part, self.calls = state, student_part, teacher_part, calls
        roots = [model.get_submodule(student_part.name) for model in (state.student, state.teacher)]
        self.student = GraphRun(roots[0], student_part, calls.student, state.memory // 2)
        self.teacher = self.new_teacher_run()
        self.student_modules, self.teacher_modules = (dict(root.named_modules(remove_duplicate=False)) for root in roots)
        self.images = sum(batch_size_of(arguments) for arguments in calls.student)
        self._twins = {str(node.target): node for node in self.teacher.nodes if node.op == "call_module"}

    def new_teacher_run(self) -> GraphRun:
        """The teacher's part from its start, apart from :attr:`teacher`; whoever asks for it closes it."""
        root = self.state.teacher.get_submodule(self.part.name)
        return GraphRun(root, self.teacher_part, self.calls.teacher, self.state.memory // 2)

    def close(self) -> None:
        """Drop all values."""
        self.student.close()
        self.teacher.close()

    def release(self) -> None:
        """Keep no value any longer than the two graphs need it."""
        self.student.release()
        self.teacher.release()

    def name_of(self, node: fx.Node) -> str:
        """The qualified name of the module that a node calls."""
        return self.part.qualified(str(node.target))

    def twin_of(self, node: fx.Node) -> fx.Node | None:
        """The teacher's call of the module that a node of the student calls."""
        return self._twins.get(str(node.target))

    def module_of(self, node: fx.Node) -> nn.Module:
        """The student's module that a node calls."""
        return self.student_modules[str(node.target)]

    def replace_module(self, node: fx.Node, module: nn.Module) -> None:
        """Make the student's module that a node calls into another one, under all of its names."""
        become(self.module_of(node), module)

    def norm_target(self, site: Site) -> str | None:
        """The name by which the graphs call a site's norm."""
        return self.part.relative(site.norm_name) if site.norm_name else None

    def sums_after(self, site: Site, node: fx.Node, twin: fx.Node) -> PairedSums | None:
        """The sums that the site's output enters, in student and teacher, where it is the branch and not the shortcut."""
        norm = self.norm_target(site)
        student, teacher = find_sum(node, self.student_modules, norm), find_sum(twin, self.teacher_modules, norm)
        if student is None or teacher is None or depends_on(student.shortcut, node):
            return None
        # of two ways to the sum that are alike, one is the branch, or each would wait for the other
        return PairedSums(student, teacher) if self._rank(node) > self._rank(student.shortcut) else None

    def sites_before(self, node: fx.Node) -> int:
        """How many of the layers that are changed lie on the way to a node, its own included."""
        return sum(self.state.is_changed(name) for name in self._names_before(node))

    def _rank(self, node: fx.Node) -> tuple[int, int, int]:
        """Sites, layers converted or not, and nodes on the way to a node: the branch of a sum has more of them."""
        layers = sum(name in self.state.sites or name in self.state.dense for name in self._names_before(node))
        return self.sites_before(node), layers, self.student.position[node]

    def _names_before(self, node: fx.Node) -> list[str]:
        """The modules that are called on the way to a node."""
        return [self.name_of(earlier) for earlier in with_ancestors(node) if earlier.op == "call_module"]
