"""How long a site, or a whole network, takes on a runtime: as it is, and as a student."""

import hashlib
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from importlib.metadata import version
from typing import cast

import torch
from torch import Tensor, fx, nn

from ..deployment.fold import fold, for_inference
from ..deployment.parted_maps import PartedMaps
from ..deployment.runtimes import Runtime
from ..deployment.timing import TURN, in_turns, machine, thread_count
from ..graph.sites import Site
from ..layers.reduced_linear import ReducedLinear
from ..surgery.planned import PlannedSite
from ..surgery.swap import make_swaps, swap
from ..surgery.warm_start import make_ghost
from .settings import GhostConfig
from .site_layers import layers_of
from .timing_cache import TimingCache

REPEATS = 10


BESIDE_REPEATS = 20  # of a student that is timed beside its original


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


@dataclass(frozen=True)
class Beside:
    """A student that was timed beside its original, in turns.

    Attributes:
        original, student: median seconds of one batch.
        share: the student's time as a share of the original's, the median over turns; what slows the machine down for a while
            slows both.
        low, high: quartiles of the share.
    """

    original: float
    student: float
    share: float
    low: float
    high: float


class RuntimeTimer:
    """Times layers and networks on a runtime, by themselves or beside what would take their place.

    Times of layers, and of networks that a plan changes, are remembered on disk.

    Args:
        runtime: where they run.
        threads: of the runtime; None for as many as torch has.
    """

    def __init__(self, runtime: Runtime, threads: int | None = None):
        self.runtime = runtime
        self.threads = torch.get_num_threads() if threads is None else threads
        packages = {package: version(package) for package in ("torch", *runtime.needs)}
        self.cache = TimingCache([machine(), os.cpu_count(), self.threads, runtime.name, packages])

    def layers(self, site: Site, x: Tensor) -> float:
        """Seconds of the layers at one site as they are, for the input ``x`` of the site."""

        def measure() -> list[float]:
            return [statistics.median(self._turns({"layers": fold(layers_of(site))}, x, LAYER_TURN)["layers"])]

        return self.cache.remembered([*_key(site, x), ["as they are"]], measure)[0]

    def ghost(self, planned: PlannedSite, x: Tensor) -> float:
        """Seconds of what is planned for a site, by itself, for the input ``x`` of the site."""

        def measure() -> list[float]:
            return [statistics.median(self._turns({"ghost": _ghost(planned)}, x, LAYER_TURN)["ghost"])]

        return self.cache.remembered([*_key(planned.site, x), [*_planned_key(planned), "by itself"]], measure)[0]

    def site(self, planned: PlannedSite, x: Tensor) -> Seconds:
        """Seconds of the layers at one site, and of what is planned there, for the input ``x`` of the site."""
        site = planned.site
        key = [*_key(site, x), _planned_key(planned)]

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

    def whole(self, model: nn.Module, x: Tensor) -> float:
        """Median seconds of a whole network, timed anew."""
        return statistics.median(self._turns({"model": for_inference(model, True)}, x, TURN)["model"])

    def beside(
        self, original: nn.Module, student: nn.Module, x: Tensor, turn: float = TURN, repeats: int = BESIDE_REPEATS
    ) -> Beside:
        """Times of a student and its original, taken in turns, anew.

        Args:
            original, student: they are not changed.
            x: the input.
            turn: seconds that a turn takes at least.
            repeats: turns of each.
        """
        networks = {"original": for_inference(original, True), "student": for_inference(student, True)}
        seconds = self._turns(networks, x, turn, repeats)
        shares = [one / other for one, other in zip(seconds["student"], seconds["original"], strict=True)]
        low, share, high = statistics.quantiles(shares, n=4, method="inclusive")
        return Beside(statistics.median(seconds["original"]), statistics.median(seconds["student"]), share, low, high)

    def _times(self, original: nn.Module, ghost: nn.Module, x: Tensor, turn: float) -> Seconds:
        seconds = self._turns({"original": original, "ghost": ghost}, x, turn)
        return Seconds(statistics.median(seconds["original"]), statistics.median(seconds["ghost"]))

    def _turns(
        self, networks: Mapping[str, nn.Module], x: Tensor, turn: float, repeats: int = REPEATS
    ) -> dict[str, list[float]]:
        """Seconds of each network in each of its turns; networks are ready for inference."""
        x = self.runtime.placed(x)
        with thread_count(self.threads):
            loads = {name: self.runtime.prepare(network.cpu(), x, self.threads) for name, network in networks.items()}
            return in_turns(loads, x, repeats, turn)


def _key(site: Site, x: Tensor) -> list[list[object]]:
    """What the time of a site's layers depends on."""
    weight = site.weighted.weight
    return [
        [site.layers, list(weight.shape), str(weight.dtype), list(x.shape)],
        [str(getattr(site.module, name, None)) for name in ("stride", "padding", "dilation", "groups")],
    ]


def _planned_key(planned: PlannedSite) -> list[object]:
    """What the time of a planned layer depends on, besides its site."""
    return [planned.intrinsic, planned.cheap if planned.site.kind == "conv" else "rank", planned.dw_size]


def _ghost(planned: PlannedSite) -> nn.Module:
    """What takes the site's place, folded. Parts that it makes apart stay apart, as in a network that does not copy them."""
    if planned.site.kind == "linear":
        return fold(nn.Sequential(ReducedLinear.from_linear(planned.site.linear, planned.intrinsic)))
    folded = fold(nn.Sequential(make_ghost(planned, init="random")))
    if not isinstance(folded, fx.GraphModule):
        return folded
    output = next(node for node in folded.graph.nodes if node.op == "output")
    maps = cast(fx.Node, output.args[0])
    if maps.op == "call_module" and isinstance(folded.get_submodule(str(maps.target)), PartedMaps):
        output.args = (maps.args,)
        folded.graph.erase_node(maps)
        folded.recompile()
    return folded
