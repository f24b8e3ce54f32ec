"""Measure sites one at a time: a Ghost module in the place of one, and the network run from there to its end."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..calibration.calibrate import MEMORY
from ..calibration.settings import Settings
from ..calibration.site_data import Batch, UnevenError
from ..calibration.site_fit import SiteProblem
from ..common.calls import Arguments, batch_size_of, captured
from ..conversion.sensitivity_table import SiteSensitivity
from ..graph.running import GraphRun
from ..graph.sites import Site, is_listed
from ..graph.tracing import Part, trace
from ..layers.patterns import lookup
from ..losses import main_output
from ..surgery.planned import PlannedSite
from ..surgery.warm_start import make_ghost

ROUNDS = 0  # for the activation: the order of sites needs none, and they take most of the time


@dataclass
class Scan:
    """Measures sites one at a time on an original that stays as it is.

    Args:
        model: in evaluation mode; a copy whose modules may be exchanged for a while.
        calls: the arguments of a forward pass for each batch.
        plans: what becomes of each site at each ratio.
        auto: the cheap operation is decided by the data.
        outputs: from what the model returns to its class scores.
        labels: of each batch.
        seed: of the positions that are sampled.
    """

    model: nn.Module
    calls: Sequence[Arguments]
    plans: dict[str, dict[float, PlannedSite]]
    auto: bool
    outputs: Callable[[Any], Sequence[Tensor]]
    labels: list[Tensor] | None
    seed: int
    original: list[Tensor | None] | None = None

    @property
    def images(self) -> int:
        return sum(len(args[0]) for args, _ in self.calls)

    def reference(self) -> list[Tensor | None]:
        """Log-probabilities of the original for each batch."""
        if self.original is None:
            self.original = [self._scores(self.model(*args, **kwargs)) for args, kwargs in self.calls]
        return self.original

    def top1(self) -> float | None:
        """Of the original."""
        return self._compare(self.reference())[1]

    def run(self, names: Sequence[str]) -> Iterator[list[SiteSensitivity]]:
        """The rows of each of these sites."""
        left = set(names)
        for part in trace(self.model, is_listed, lambda m: lookup(m) is not None):
            inside = {part.qualified(str(node.target)): node for node in part.graph.nodes if node.op == "call_module"}
            if left.isdisjoint(inside):
                continue
            calls = self.calls if not part.entry else captured(self.model, "", part.entry, self.calls)
            images = sum(batch_size_of(arguments) for arguments in calls)
            stream = GraphRun(self.model.get_submodule(part.name), part, calls, MEMORY)
            try:
                for node in stream.nodes:
                    name = part.qualified(str(node.target))
                    if node.op == "call_module" and name in left:
                        left.discard(name)
                        yield self._site(name, part, stream, node, images)
                        stream.release()
            finally:
                stream.close()
        for name in sorted(left):
            yield [self._row(name, ratio, planned) for ratio, planned in self.plans[name].items()]

    def _site(self, name: str, part: Part, stream: GraphRun, node: fx.Node, images: int) -> list[SiteSensitivity]:
        inputs = node.all_input_nodes[0]

        def batches() -> Iterator[Batch]:
            empty = False
            for x, own in stream.run([inputs, node], keep=[inputs, node]):
                empty = empty or not x.numel()
                if not empty:
                    yield Batch(x, own)
            if empty:
                raise UnevenError

        problem: SiteProblem | None = None
        settings = Settings(rounds=ROUNDS, auto=self.auto, seed=self.seed)
        rows: dict[tuple[int, str], SiteSensitivity] = {}
        try:
            # fewest channels first: they allow every cheap operation, so that one pass learns what all need
            for ratio, planned in reversed(self.plans[name].items()):
                if (planned.intrinsic, planned.cheap) in rows:
                    continue
                ghost = make_ghost(planned).eval()
                problem = problem or SiteProblem(planned.site, ghost, batches, images, settings)
                fitted = problem.solve_next(ghost)
                whole = part.whole and not part.entry
                given = (
                    self._through(stream, node, planned.site, fitted.module) if whole else self._beside(planned, fitted.module)
                )
                row = self._row(name, ratio, planned, fitted.after, given)
                rows[planned.intrinsic, planned.cheap] = replace(row, cheap=fitted.module.cheap)
        except UnevenError:
            return [self._row(name, ratio, planned) for ratio, planned in self.plans[name].items()]
        return [replace(rows[p.intrinsic, p.cheap], ratio=ratio) for ratio, p in self.plans[name].items()]

    def _through(self, stream: GraphRun, node: fx.Node, site: Site, ghost: nn.Module) -> list[Tensor | None]:
        """Scores with the module in place, run from there to the end."""
        inputs, last = node.all_input_nodes[0], _last_node(node, site)
        output = next(n for n in stream.nodes if n.op == "output")
        given = []
        for index in range(len(stream)):
            maps = ghost(stream.batches[index][inputs.name])
            given.append(self._scores(stream.peek(index, output, last, maps)))
        return given

    def _beside(self, planned: PlannedSite, ghost: nn.Module) -> list[Tensor | None]:
        """The same where the graph does not reach to the end: the whole model is run."""
        site = planned.site
        layers = {site.name: ghost, **{name: nn.Identity() for name in (site.norm_name, site.act_name) if name is not None}}
        with _standing_in(self.model, layers):
            return [self._scores(self.model(*args, **kwargs)) for args, kwargs in self.calls]

    def _scores(self, output: Any) -> Tensor | None:
        """Log-probabilities (rows, classes); None where the model gives no class scores."""
        try:
            scores = self.outputs(output)[0]
        except TypeError:
            if self.outputs is not main_output:
                raise
            return None
        return scores.float().movedim(1, -1).flatten(0, -2).log_softmax(1)

    def _row(
        self,
        name: str,
        ratio: float,
        planned: PlannedSite,
        error: float | None = None,
        given: list[Tensor | None] | None = None,
    ) -> SiteSensitivity:
        kl, top1 = self._compare(given) if given is not None else (None, None)
        return SiteSensitivity(name, ratio, planned.intrinsic, planned.cheap, error, kl, top1)

    def _compare(self, given: list[Tensor | None]) -> tuple[float | None, float | None]:
        """Mean divergence from the original, and top-1."""
        wanted = self.reference()
        if any(scores is None for scores in [*given, *wanted]):
            return None, None
        kl, rows, right = 0.0, 0, 0
        for index, (p, q) in enumerate(zip(wanted, given, strict=True)):
            assert p is not None
            assert q is not None
            kl += float((p.exp() * (p - q)).sum(dtype=torch.float64))
            rows += len(p)
            if self.labels is not None:
                right += int((q.argmax(1) == self.labels[index].to(q.device)).sum())
        return max(kl / rows, 0.0), right / rows if self.labels is not None else None


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
    """Modules in the places of others, for a while."""
    before = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        yield
    finally:
        for name, layer in before.items():
            model.set_submodule(name, layer)
