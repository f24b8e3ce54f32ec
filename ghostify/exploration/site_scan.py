"""Measure sites one at a time: a Ghost module in the place of one, and the network run from there to its end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from torch import fx, nn

from ..calibration.calibrate import MEMORY
from ..calibration.settings import Settings
from ..calibration.site_data import Batch, SiteData, UnevenError
from ..calibration.site_fit import SiteFit
from ..calibration.survey import Survey
from ..common.calls import batch_size_of, captured, of_each_size
from ..conversion.sensitivity_table import SiteSensitivity
from ..graph.find_sites import trace_layers
from ..graph.running import GraphRun
from ..graph.sites import Site
from ..graph.tracing import Part
from ..graph.usage import has_hooks
from ..surgery.planned import PlannedSite
from ..surgery.warm_start import make_ghost
from .score_comparison import ScoreComparison, Scores

ROUNDS = 0  # for the activation: the order of sites needs none, and they take most of the time

Plans = dict[str, dict[float, PlannedSite]]  # what becomes of each site, by its name, at each ratio


@dataclass(frozen=True)
class SiteScan:
    """Measures sites one at a time on an original that stays as it is.

    Args:
        comparison: with the original, a copy whose modules may be exchanged for a while.
        plans: what becomes of each site at each ratio.
        auto: whether the data decides on the cheap operation.
        seed: of the positions that are sampled.
    """

    comparison: ScoreComparison
    plans: Plans
    auto: bool
    seed: int

    def run(self, names: Sequence[str]) -> Iterator[list[SiteSensitivity]]:
        """The rows of each of these sites; a site that no graph reaches has rows without figures, at the end."""
        model, calls_of_model = self.comparison.original, self.comparison.calls
        left = set(names)
        for part in trace_layers(model, *of_each_size(calls_of_model)):
            inside = {part.qualified(str(node.target)) for node in part.graph.nodes if node.op == "call_module"}
            if left.isdisjoint(inside):
                continue
            is_asked_for = not part.entry and not has_hooks(model)
            calls = calls_of_model if is_asked_for else captured(model, "", part.entry, calls_of_model)
            images = sum(batch_size_of(arguments) for arguments in calls)
            graph_run = GraphRun(model.get_submodule(part.name), part, calls, MEMORY)
            try:
                for node in graph_run.nodes:
                    name = part.qualified(str(node.target))
                    if node.op == "call_module" and name in left:
                        left.discard(name)
                        yield self._site(name, part, graph_run, node, images)
                        graph_run.release()
            finally:
                graph_run.close()
        for name in sorted(left):
            yield self._rows_without_figures(name)

    def _site(self, name: str, part: Part, graph_run: GraphRun, node: fx.Node, images: int) -> list[SiteSensitivity]:
        """The rows of one site: a Ghost module for each ratio, fitted and put in its place."""
        batches = partial(_batches_of, graph_run, node)
        site = next(iter(self.plans[name].values())).site
        data = SiteData(site, batches, images, self.seed)
        fit = SiteFit(data, Settings(rounds=ROUNDS, auto=self.auto, seed=self.seed))
        survey: Survey | None = None
        rows: dict[tuple[int, str], SiteSensitivity] = {}
        try:
            # fewest channels first: they allow every cheap operation, so that one pass learns what all need
            for ratio, planned in reversed(self.plans[name].items()):
                if (planned.intrinsic, planned.cheap) in rows:
                    continue
                ghost = make_ghost(planned).eval()
                survey = fit.survey(ghost, survey)
                module, result = fit.fit(ghost, survey)
                if part.whole and not part.entry and not has_hooks(self.comparison.original):
                    scores = self._scores_from_here(graph_run, node, site, module)
                else:
                    scores = self._scores_of_model(site, module)
                divergence, top1 = self.comparison.compare(scores)
                rows[planned.intrinsic, planned.cheap] = SiteSensitivity(
                    name, ratio, planned.intrinsic, result.cheap, result.after, divergence, top1
                )
        except UnevenError:
            return self._rows_without_figures(name)
        return [replace(rows[p.intrinsic, p.cheap], ratio=ratio) for ratio, p in self.plans[name].items()]

    def _rows_without_figures(self, name: str) -> list[SiteSensitivity]:
        return [
            SiteSensitivity(name, ratio, planned.intrinsic, planned.cheap, None, None)
            for ratio, planned in self.plans[name].items()
        ]

    def _scores_from_here(self, graph_run: GraphRun, node: fx.Node, site: Site, ghost: nn.Module) -> Scores:
        """Scores with the Ghost module in place of the site, run from there to the end."""
        inputs, last = node.all_input_nodes[0], _last_node(node, site)
        output = next(n for n in graph_run.nodes if n.op == "output")
        scores: Scores = []
        for index in range(len(graph_run)):
            maps = ghost(graph_run.batches[index][inputs.name])
            scores.append(self.comparison.scores_of(graph_run.peek(index, output, last, maps)))
        return scores

    def _scores_of_model(self, site: Site, ghost: nn.Module) -> Scores:
        """The same where the graph does not reach to the end: the whole model is run."""
        model = self.comparison.original
        layers = {site.name: ghost, **{name: nn.Identity() for name in (site.norm_name, site.act_name) if name is not None}}
        with _standing_in(model, layers):
            return self.comparison.scores_of_all(model)


def _batches_of(graph_run: GraphRun, node: fx.Node) -> Iterator[Batch]:
    """What a site sees and gives, batch by batch.

    Raises:
        UnevenError: one batch has nothing for the site, as with a detector that finds nothing; the others have run, too.
    """
    inputs = node.all_input_nodes[0]
    is_empty = False
    for x, y in graph_run.run([inputs, node], keep=[inputs, node]):
        is_empty = is_empty or not x.numel()
        if not is_empty:
            yield Batch(x, y)
    if is_empty:
        raise UnevenError


def _last_node(node: fx.Node, site: Site) -> fx.Node:
    """The node after which the network has what a Ghost module at this site gives."""
    waiting = [name for name in (site.norm_name, site.act_name) if name is not None]
    while waiting:
        node = next(iter(node.users))
        if node.op == "call_module" and waiting[0].endswith(str(node.target)):
            waiting.pop(0)
    return node


@contextmanager
def _standing_in(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
    """Put modules in the places of others while the block runs."""
    before = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        yield
    finally:
        for name, layer in before.items():
            model.set_submodule(name, layer)
