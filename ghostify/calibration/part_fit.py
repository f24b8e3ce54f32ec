"""Fit the sites of one part of a network in execution order, each on the part of the student that is fitted already."""

from collections.abc import Callable
from typing import cast

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from ..common.calls import Arguments
from ..graph.running import GraphRun, arguments_of
from ..graph.sites import Site
from ..graph.tracing import lies_in
from ..layers.ghost_module import GhostModule
from ..layers.reduced_linear import ReducedLinear
from .block_fit import BlockFit
from .fit_state import FitState
from .linear_fit import fit_linear, refit_linear
from .part_pair import PairedCalls, PartPair
from .primary_fit import refit_layer
from .reader_fit import fit_linear_reader, fit_reader
from .report import SiteResult
from .shared_partitions import shared_partitions
from .site_batches import site_batches
from .site_data import SiteData, UnevenError
from .site_fit import SiteFit

UNEVEN = "sees nothing, or another number of things than the teacher's, on some images"


class PartFit:
    """Walks through the graph of a part and fits what lies on the way.

    Args:
        pair: the part in student and teacher; whoever made it closes it.
        state: what all parts share.
        fit_inside: called with the name of a module whose own code does not trace, and its calls.
    """

    def __init__(self, pair: PartPair, state: FitState, fit_inside: Callable[[str, PairedCalls], None]):
        self.pair, self.state, self.fit_inside = pair, state, fit_inside
        self.partitions = shared_partitions(pair) if state.settings.align else {}
        self.blocks = BlockFit(pair, state.blocks) if state.blocks is not None else None
        self._dense_done: set[fx.Node] = set()  # may be visited again before the student has run them

    def run(self) -> None:
        """Fit all sites of the part, in place."""
        self.pair.student.hold()
        for node in self.pair.student.nodes:
            if node.op == "call_module":
                self._visit(node)

    def _visit(self, node: fx.Node) -> None:
        name = self.pair.name_of(node)
        if name in self.state.sites and name not in self.state.results:
            self._site(self.state.sites[name], node)
        elif name in self.state.dense and self.state.settings.dense:
            self._dense(self.state.dense[name], node)
        elif any(lies_in(site, name) and site not in self.state.results for site in self.state.due):
            self._opaque(name, node)

    def _site(self, site: Site, node: fx.Node) -> None:
        """A site that was converted."""
        twin = self.pair.twin_of(node)
        if twin is None:
            self.state.keep_warm_start(site, "not found in the teacher's graph")
            return
        try:
            ghost, result = self._fit(site, node, twin)
        except UnevenError:
            self.state.keep_warm_start(site, UNEVEN)
            return
        finally:
            self._release()
        if ghost is not None:
            self.pair.replace_module(node, ghost)
        self.state.record(result)
        if ghost is not None and self.blocks is not None:
            self.blocks.add(str(node.target))
            self.blocks.finish_site(site.name)

    def _fit(self, site: Site, node: fx.Node, twin: fx.Node) -> tuple[GhostModule | None, SiteResult]:
        """The Ghost module for a site, still to be put in place; None for a fully connected layer, fitted in place."""
        module, settings = self.pair.module_of(node), self.state.settings
        if isinstance(module, ReducedLinear):
            batches = site_batches(self.pair, node, twin, asymmetric=settings.asymmetric)
            return None, fit_linear(site, module, batches, settings.ridge)
        assert isinstance(module, GhostModule)
        data = self._data(site, node, twin)
        return SiteFit(data, settings, self.partitions.get(str(node.target))).fit(module)

    def _dense(self, layer: Site, node: fx.Node) -> None:
        """A layer of the teacher's class: refitted where it absorbs maps, or where a changed one lies before it."""
        pair, state = self.pair, self.state
        twin = pair.twin_of(node)
        if twin is None or node in pair.student.done or node in self._dense_done or len(node.all_input_nodes) != 1:
            return
        self._dense_done.add(node)
        norm = pair.norm_target(layer)
        if pair.sites_before(node):
            try:
                result = self._refit(layer, node, twin)
            except UnevenError:  # it stays as it is
                result = SiteResult(layer.name, layer.kind, reason=UNEVEN)
            finally:
                self._release()
            if layer.name in state.readers:
                state.record(result)
            if result.reason is not None:
                return
        elif layer.name not in state.narrower:
            return
        if self.blocks is not None and layer.kind == "conv":
            self.blocks.add(str(node.target), *([norm] if norm else []))
            self.blocks.finish_site(layer.name)

    def _refit(self, layer: Site, node: fx.Node, twin: fx.Node) -> SiteResult:
        """Refit a layer in place; what is said of one that absorbs no maps means nothing."""
        pair, settings, module = self.pair, self.state.settings, self.pair.module_of(node)
        reader = layer.name in self.state.readers
        if layer.kind == "linear":
            batches = site_batches(pair, node, twin, asymmetric=settings.asymmetric)
            if reader:
                return fit_linear_reader(layer, cast(nn.Linear, module), batches, settings.ridge)
            refit_linear(cast(nn.Linear, module), layer.linear, batches, settings.ridge)
        else:
            norm = pair.norm_target(layer)
            norm_module = pair.student_modules[norm] if norm else None
            data = self._data(layer, node, twin)
            if reader:
                return fit_reader(data, settings, module, norm_module)
            refit_layer(data, settings, cast(_ConvNd, module), norm_module)
        return SiteResult(layer.name, layer.kind)

    def _data(self, site: Site, node: fx.Node, twin: fx.Node) -> SiteData:
        """What reaches a site, and what it should give."""
        settings = self.state.settings
        sums = self.pair.sums_after(site, node, twin) if settings.residual and site.act is None else None
        if sums is not None:
            # what the shortcut gives has to be known first, with its own sites fitted
            for earlier in self.pair.student.ancestors([sums.student.shortcut]):
                if earlier.op == "call_module" and earlier is not node:
                    self._visit(earlier)
        batches = site_batches(self.pair, node, twin, sums, settings.asymmetric)
        return SiteData(site, batches, self.pair.images, settings.seed, sums.student.act if sums else None)

    def _opaque(self, name: str, node: fx.Node) -> None:
        """A module whose own code does not trace: what its parts are called with shows when it is run."""
        twin = self.pair.twin_of(node)
        if twin is not None:
            self.fit_inside(name, PairedCalls(_calls_of(node, self.pair.student), _calls_of(twin, self.pair.teacher)))
            self.pair.release()

    def _release(self) -> None:
        if self.blocks is None:
            self.pair.release()


def _calls_of(node: fx.Node, run: GraphRun) -> list[Arguments]:
    """The arguments of the module that a node calls, for each batch."""
    inputs = list(node.all_input_nodes)
    names = [source.name for source in inputs]
    return [arguments_of(node, dict(zip(names, values, strict=True))) for values in run.run(inputs, keep=inputs)]
