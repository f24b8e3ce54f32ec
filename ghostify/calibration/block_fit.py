"""Where the blocks of a part end, and the gradient steps on each as soon as its last site is fitted."""

from torch import fx

from ..graph.paths import depends_on
from ..graph.sites import Site
from .blocks import End, train_block
from .part_pair import PartPair
from .settings import BlockSettings

WINDOW = 2  # sites that are trained together where no shortcut tells where a block ends


class BlockFit:
    """Trains the blocks of a part, one after the other.

    Args:
        pair: the part in student and teacher.
        settings: of the gradient steps.
    """

    def __init__(self, pair: PartPair, settings: BlockSettings):
        self.pair, self.settings = pair, settings
        self.ends = block_ends(pair)
        self.targets: list[str] = []  # layers of the block that has begun

    def add(self, *targets: str) -> None:
        """Count layers to the block that has begun."""
        self.targets += targets

    def finish_site(self, name: str) -> None:
        """Train the block that a site ends, if it ends one."""
        if name in self.ends:
            self._train(self.ends[name])

    def _train(self, end: End) -> None:
        student, teacher = self.pair.student, self.pair.teacher
        student.rewind()
        for _ in teacher.run([end.teacher], keep=[end.teacher]):
            pass
        modules = [self.pair.student_modules[target] for target in self.targets]
        train_block(student, teacher, end, modules, self.settings)
        self.targets.clear()
        self.pair.release()
        for _ in student.run([end.student]):
            pass
        student.hold()


def block_ends(pair: PartPair) -> dict[str, End]:
    """The sites at which a block is complete, and what stands there: a sum with a shortcut, or the site's own output."""
    due = pair.state.due
    ends: dict[str, End] = {}
    waiting: list[fx.Node] = []
    for node in pair.student.nodes:
        site = due.get(pair.name_of(node)) if node.op == "call_module" else None
        twin = pair.twin_of(node)
        if site is None or site.kind != "conv" or twin is None:
            continue
        sums = pair.sums_after(site, node, twin) if site.act is None else None
        waiting.append(node)
        if sums is not None:
            ends[site.name] = End(sums.student.node, sums.teacher.node, sums.student.act)
            waiting.clear()
    for node in _last_of_windows(waiting):
        site, twin = due[pair.name_of(node)], pair.twin_of(node)
        assert twin is not None
        ends[site.name] = _end_of(pair, site, node, twin)
    return ends


def _end_of(pair: PartPair, site: Site, node: fx.Node, twin: fx.Node) -> End:
    """The end of a block that a layer ends: after its norm and its activation, in channels that the student has."""
    if site.name in pair.state.sites:
        return End(node, twin, None, site)
    norm = pair.norm_target(site)
    return End(_past(node, norm), _past(twin, norm), site.act, kept=pair.state.kept.get(site.name))


def _past(node: fx.Node, norm: str | None) -> fx.Node:
    """The call of the norm behind a layer, or the call of the layer itself where it has none."""
    return next((user for user in node.users if user.op == "call_module" and user.target == norm), node)


def _last_of_windows(nodes: list[fx.Node]) -> list[fx.Node]:
    """Sites that no sum follows are trained a few at a time, as far as each feeds the next; the last of each few."""
    last: list[fx.Node] = []
    window: list[fx.Node] = []
    for node in nodes:
        if window and (len(window) == WINDOW or not depends_on(node, window[-1])):
            last.append(window[-1])
            window.clear()
        window.append(node)
    return last + window[-1:]
