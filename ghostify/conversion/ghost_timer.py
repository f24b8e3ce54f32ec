"""How long a site, or a whole network, takes on a runtime as it is and with Ghost modules."""

import hashlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version
from typing import cast

import torch
from torch import Tensor, fx, nn

from ..deployment.fold import fold, for_inference
from ..deployment.parted_maps import PartedMaps
from ..deployment.runtimes import Runtime
from ..deployment.timing import TURN, in_turns, machine
from ..layers.reduced_linear import ReducedLinear
from ..surgery.planned import PlannedSite
from ..surgery.swap import make_swaps, swap
from ..surgery.warm_start import make_ghost
from .settings import GhostConfig
from .site_latency import layers_of
from .timing_cache import TimingCache

REPEATS = 10


LAYER_TURN = 0.03  # seconds


@dataclass(frozen=True)
class Seconds:
    """Median seconds of one batch.

    Attributes:
        original: seconds of the layers or the network as they are.
        ghost: seconds of what stands in for them.
    """

    original: float
    ghost: float


class GhostTimer:
    """Times layers and networks on a runtime beside what would take their place, and remembers the times on disk.

    Args:
        runtime: where they run, with as many threads as torch has.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.threads = torch.get_num_threads()
        packages = {package: version(package) for package in ("torch", *runtime.needs)}
        self.cache = TimingCache([machine(), os.cpu_count(), self.threads, runtime.name, packages])

    def site(self, planned: PlannedSite, x: Tensor) -> Seconds:
        """Seconds of the layers at one site, and of what is planned there, for the input ``x`` of the site."""
        site = planned.site
        weight = site.weighted.weight
        key = [
            [site.layers, list(weight.shape), str(weight.dtype), list(x.shape)],
            [str(getattr(site.module, name, None)) for name in ("stride", "padding", "dilation", "groups")],
            [planned.intrinsic, planned.cheap if site.kind == "conv" else "rank", planned.dw_size],
        ]

        def measure() -> tuple[float, float]:
            return astuple(self._times(fold(layers_of(site)), _ghost(planned), x, LAYER_TURN))

        return Seconds(*self.cache.remembered(key, measure))

    def network(
        self, model: nn.Module, plan: Sequence[PlannedSite], config: GhostConfig, x: Tensor, again: bool = False
    ) -> Seconds:
        """Seconds of a network, and of the student that a plan makes of it.

        Args:
            model: the original network, in evaluation mode; it is not changed.
            plan: what would be converted.
            config: settings of the conversion.
            x: the input.
            again: whether it is timed a second time, and not the same figure remembered.
        """
        sites = [(p.site.name, p.intrinsic, p.cheap, p.dw_size) for p in plan if p.ratio is not None]
        shapes = {name: list(p.shape) for name, p in model.named_parameters()}
        digest = hashlib.sha256(json.dumps([sites, shapes, config.to_dict()]).encode()).hexdigest()

        def measure() -> tuple[float, float]:
            student = swap(model, make_swaps(plan, config.init, config.seed), inplace=False)
            return astuple(self._times(for_inference(model, True), for_inference(student, True), x, TURN))

        key = [type(model).__name__, digest, list(x.shape), *(["again"] if again else [])]
        return Seconds(*self.cache.remembered(key, measure))

    def _times(self, original: nn.Module, ghost: nn.Module, x: Tensor, turn: float) -> Seconds:
        x = self.runtime.placed(x)
        loads = {
            name: self.runtime.prepare(network.cpu(), x, self.threads)
            for name, network in (("original", original), ("ghost", ghost))
        }
        seconds = in_turns(loads, x, REPEATS, turn)
        return Seconds(statistics.median(seconds["original"]), statistics.median(seconds["ghost"]))


def _ghost(planned: PlannedSite) -> nn.Module:
    """What takes the site's place, folded. Parts that it makes apart stay apart, as in a network that does not copy them."""
    if planned.site.kind == "linear":
        return fold(nn.Sequential(ReducedLinear.from_linear(planned.site.linear, planned.intrinsic)))
    folded = cast(fx.GraphModule, fold(nn.Sequential(make_ghost(planned, init="random"))))
    output = next(node for node in folded.graph.nodes if node.op == "output")
    maps = cast(fx.Node, output.args[0])
    if maps.op == "call_module" and isinstance(folded.get_submodule(str(maps.target)), PartedMaps):
        output.args = (maps.args,)
        folded.graph.erase_node(maps)
        folded.recompile()
    return folded
