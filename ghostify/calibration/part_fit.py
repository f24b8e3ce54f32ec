"""Fit the sites of one part of a network, teacher and student side by side."""

from collections.abc import Callable, Collection, Iterator

from torch import fx

from ..common.calls import Arguments, batch_size_of
from ..deployment.channel_orders import ChannelOrders
from ..graph.paths import depends_on
from ..graph.running import GraphRun, arguments_of
from ..graph.sites import Site
from ..graph.sums import Sum, find_sum
from ..graph.tracing import Part
from ..layers.ghost_module import GhostModule
from ..layers.reduced_linear import ReducedLinear
from ..surgery.swap import put
from .alignment import Partition
from .blocks import End, train_block
from .fit_state import FitState
from .linear_fit import fit_linear, refit_linear
from .primary_fit import refit_layer
from .report import SiteResult
from .site_data import Batch, SiteData, UnevenError
from .site_fit import SiteFit


class PartFit:
    """Student and teacher in one part, side by side."""

    def __init__(
        self,
        state: FitState,
        part: Part,
        other: Part,
        student_calls: Collection[Arguments],
        teacher_calls: Collection[Arguments],
        fit_inside: Callable[[str, Collection[Arguments], Collection[Arguments]], None],
    ):
        self.state, self.part, self.fit_inside = state, part, fit_inside
        roots = [model.get_submodule(part.name) for model in (state.student, state.teacher)]
        self.student = GraphRun(roots[0], part, student_calls, state.memory // 2)
        self.teacher = GraphRun(roots[1], other, teacher_calls, state.memory // 2)
        self.images = sum(batch_size_of(arguments) for arguments in student_calls)
        self.at_teacher = {str(n.target): n for n in self.teacher.nodes if n.op == "call_module"}
        self.modules = [dict(root.named_modules(remove_duplicate=False)) for root in roots]
        self.prefix = part.name + "." if part.name else ""
        self.open: list[str] = []  # sites of the block that has begun
        self.partitions: dict[str, Partition] = {}
        if state.settings.align:
            self.partitions = self._partitions(GraphRun(roots[1], other, teacher_calls, state.memory // 2))
        self.ends = self._block_ends() if state.blocks else {}

    def close(self) -> None:
        self.student.close()
        self.teacher.close()

    def walk(self) -> None:
        self.student.hold()
        for node in self.student.nodes:
            if node.op == "call_module":
                self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        name = self.prefix + str(node.target)
        if name in self.state.sites and name not in self.state.results:
            self._site(name, node)
        elif name in self.state.dense and self.state.settings.dense:
            self._dense(name, node)
        elif any(lies_in(site, name) and site not in self.state.results for site in self.state.sites):
            self._opaque(name, node)

    def _opaque(self, name: str, node: fx.Node) -> None:
        """A module whose own code does not trace: what its parts are called with is found by running it."""
        twin = self.at_teacher.get(str(node.target))
        if twin is None:
            return
        calls = []
        for stream, own in ((self.student, node), (self.teacher, twin)):
            inputs = list(own.all_input_nodes)
            gathered = []
            for values in stream.run(inputs, keep=inputs):
                by_name = dict(zip((n.name for n in inputs), values, strict=True))
                gathered.append(arguments_of(own, by_name))
            calls.append(gathered)
        self.fit_inside(name, *calls)
        self.student.release()
        self.teacher.release()

    def _site(self, name: str, node: fx.Node) -> None:
        site = self.state.sites[name]
        twin = self.at_teacher.get(str(node.target))
        if twin is None:
            self.state.keep_warm_start(site, "not found in the teacher's graph")
            return
        module = self.modules[0][str(node.target)]
        if isinstance(module, ReducedLinear):
            self._linear(name, node, twin, module)
            return
        try:
            assert isinstance(module, GhostModule)
            data = self._data(site, node, twin)
            partition = self.partitions.get(str(node.target))
            fitted, result = SiteFit(data, self.state.settings, partition).fit(module)
        except UnevenError:
            self.state.keep_warm_start(site, UNEVEN)
            return
        finally:
            self._release()
        put(self.student.root, str(node.target), fitted)
        self.modules[0][str(node.target)] = fitted
        self.state.record(result)
        self.open.append(str(node.target))
        if name in self.ends:
            self._train(self.ends[name])

    def _dense(self, name: str, node: fx.Node) -> None:
        """A layer that was not converted: refitted where a converted one lies before it."""
        site, twin = self.state.dense[name], self.at_teacher.get(str(node.target))
        if twin is None or node in self.student.done or self._count(node) == 0 or len(node.all_input_nodes) != 1:
            return
        module = self.modules[0][str(node.target)]
        norm = site.norm_name.removeprefix(self.prefix) if site.norm_name else None
        try:
            if site.kind == "linear":
                refit_linear(module, site.module, self._batches(node, twin), self.state.settings.ridge)
            else:
                data = self._data(site, node, twin)
                refit_layer(data, self.state.settings, module, self.modules[0][norm] if norm else None)
                self.open += [str(node.target)] + ([norm] if norm else [])
        except UnevenError:  # it stays as it is
            return
        finally:
            self._release()

    def _data(self, site: Site, node: fx.Node, twin: fx.Node) -> SiteData:
        """What reaches a site, and what it should give."""
        settings = self.state.settings
        norm = site.norm_name.removeprefix(self.prefix) if site.norm_name else None
        sums = self._sums(node, twin, norm) if settings.residual and site.act is None else None
        if sums is not None:
            # what the shortcut gives has to be known first, with its own sites fitted
            for earlier in self.student.ancestors([sums[0].shortcut]):
                if earlier.op == "call_module" and earlier is not node:
                    self._visit(earlier)
        after = sums[0].act if sums else None
        return SiteData(site, self._batches(node, twin, sums), self.images, settings.seed, after)

    def _batches(self, node: fx.Node, twin: fx.Node, sums: tuple[Sum, Sum] | None = None) -> Callable[[], Iterator[Batch]]:
        """What a layer sees and should give, batch by batch, anew at each call."""
        asymmetric = self.state.settings.asymmetric
        inputs = (node if asymmetric else twin).all_input_nodes[0]
        student_nodes = [inputs] if asymmetric else []
        teacher_nodes = [twin] if asymmetric else [twin, inputs]
        if sums is not None:
            student_nodes.append(sums[0].shortcut)
            teacher_nodes.append(sums[1].node)

        def batches() -> Iterator[Batch]:
            mine = self.student.run(student_nodes, keep=student_nodes)
            theirs = self.teacher.run(teacher_nodes, keep=teacher_nodes)
            uneven = False
            for s, t in zip(mine, theirs, strict=True):  # to the end, so that both networks have run everything
                x = s[0] if asymmetric else t[1]
                uneven = uneven or len(x) != len(t[0]) or not x.numel()
                if not uneven:
                    yield Batch(x, t[0], t[-1], s[-1]) if sums is not None else Batch(x, t[0])
            if uneven:
                raise UnevenError

        return batches

    def _partitions(self, teacher: GraphRun) -> dict[str, Partition]:
        """One for all layers of a stream of channels, by the layers' names; chosen by one run of the teacher."""
        found: dict[str, Partition] = {}
        for stream in ChannelOrders(self.teacher.graph, self.modules[1], set()).streams:
            shared = Partition()
            if not stream.fixed and len(stream.free) > 1:
                found.update({str(node.target): shared for node in stream.free})
        try:
            for node in teacher.nodes:
                target = str(node.target)
                site, module = self.state.sites.get(self.prefix + target), self.modules[0].get(target)
                if node.op == "call_module" and target in found and site is not None and isinstance(module, GhostModule):

                    def batches(node: fx.Node = node) -> Iterator[Batch]:
                        for (own,) in teacher.run([node]):
                            yield Batch(own, own)

                    data = SiteData(site, batches, self.images, self.state.settings.seed)
                    SiteFit(data, self.state.settings).describe(module, found[target])
        finally:
            teacher.close()
        for shared in {id(one): one for one in found.values()}.values():
            shared.choose()
        return found

    def _release(self) -> None:
        if not self.state.blocks:
            self.student.release()
            self.teacher.release()

    def _block_ends(self) -> dict[str, End]:
        """The sites at which a block is complete, and what stands there: a sum with a shortcut, or the site's own output."""
        sites = [n for n in self.student.nodes if n.op == "call_module" and self.prefix + str(n.target) in self.state.sites]
        ends: dict[str, End] = {}
        waiting: list[fx.Node] = []
        for node in sites:
            name = self.prefix + str(node.target)
            site, twin = self.state.sites[name], self.at_teacher.get(str(node.target))
            if site.kind != "conv" or twin is None:
                continue
            norm = site.norm_name.removeprefix(self.prefix) if site.norm_name else None
            sums = self._sums(node, twin, norm) if site.act is None else None
            waiting.append(node)
            if sums is not None:
                ends[name] = End(sums[0].node, sums[1].node, sums[0].act)
                waiting.clear()
        window: list[fx.Node] = []
        for node in waiting:  # no sum follows: a few sites at a time, as far as each feeds the next
            if window and (len(window) == WINDOW or not depends_on(node, window[-1])):
                ends.update(self._own_end(window[-1]))
                window.clear()
            window.append(node)
        if window:
            ends.update(self._own_end(window[-1]))
        return ends

    def _own_end(self, node: fx.Node) -> dict[str, End]:
        name = self.prefix + str(node.target)
        return {name: End(node, self.at_teacher[str(node.target)], None, self.state.sites[name])}

    def _train(self, end: End) -> None:
        assert self.state.blocks is not None
        self.student.rewind()
        for _ in self.teacher.run([end.teacher], keep=[end.teacher]):
            pass
        modules = [self.modules[0][target] for target in self.open]
        train_block(self.student, self.teacher, end, modules, self.state.blocks)
        self.open.clear()
        self.student.release()
        self.teacher.release()
        for _ in self.student.run([end.student]):
            pass
        self.student.hold()

    def _sums(self, node: fx.Node, twin: fx.Node, norm: str | None) -> tuple[Sum, Sum] | None:
        """The sums that the site's output enters, in student and teacher, where it is the branch and not the shortcut."""
        mine = find_sum(node, self.modules[0], norm)
        theirs = find_sum(twin, self.modules[1], norm)
        if mine is None or theirs is None or depends_on(mine.shortcut, node):
            return None
        # of two ways to the sum that are alike, one is the branch, or each would wait for the other
        branch, shortcut = ((self._count(n), self._layers(n), self.student.position[n]) for n in (node, mine.shortcut))
        return (mine, theirs) if branch > shortcut else None

    def _count(self, node: fx.Node) -> int:
        """How many sites lie on the way to a node."""
        return sum(self.prefix + str(n.target) in self.state.sites for n in self._way(node))

    def _layers(self, node: fx.Node) -> int:
        """How many layers lie on the way to a node, converted or not."""
        names = [self.prefix + str(n.target) for n in self._way(node)]
        return sum(name in self.state.sites or name in self.state.dense for name in names)

    def _way(self, node: fx.Node) -> Iterator[fx.Node]:
        """The modules on the way to a node."""
        ahead, seen = [node], {node}
        while ahead:
            for source in ahead.pop().all_input_nodes:
                if source not in seen:
                    seen.add(source)
                    ahead.append(source)
        return (n for n in seen if n.op == "call_module")

    def _linear(self, name: str, node: fx.Node, twin: fx.Node, module: ReducedLinear) -> None:
        site, ridge = self.state.sites[name], self.state.settings.ridge
        try:
            result = fit_linear(site, module, self._batches(node, twin), ridge)
        except UnevenError:
            result = SiteResult(name, site.kind, reason=UNEVEN)
        finally:
            self._release()
        self.state.record(result)


WINDOW = 2  # sites that are trained together where no shortcut tells where a block ends


UNEVEN = "sees nothing, or another number of things than the teacher's, on some images"


def lies_in(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(folder + ".")
