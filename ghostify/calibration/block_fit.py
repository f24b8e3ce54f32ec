"""Where the blocks of a part end, and the gradient steps on each as soon as its last site is fitted."""

from torch import fx

from ..graph.paths import depends_on
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
    ends: dict[str, End] = {}
    waiting: list[fx.Node] = []
    for node in pair.student.nodes:
        site = pair.state.sites.get(pair.name_of(node)) if node.op == "call_module" else None
        twin = pair.twin_of(node)
        if site is None or site.kind != "conv" or twin is None:
            continue
        sums = pair.sums_after(site, node, twin) if site.act is None else None
        waiting.append(node)
        if sums is not None:
            ends[site.name] = End(sums.student.node, sums.teacher.node, sums.student.act)
            waiting.clear()
    for node in _last_of_windows(waiting):
        site, twin = pair.state.sites[pair.name_of(node)], pair.twin_of(node)
        assert twin is not None
        ends[site.name] = End(node, twin, None, site)
    return ends


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
