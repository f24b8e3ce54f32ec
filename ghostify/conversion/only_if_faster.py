"""only_if_faster: sites that a Ghost module would not make faster on a runtime stay as they are."""

import hashlib
import json
import logging
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.copying import copy_without_hooks, on_meta
from ..common.files import write_text
from ..common.progress import site_bar
from ..deployment.fold import fold, for_inference
from ..deployment.parted_maps import PartedMaps
from ..deployment.runtimes import Runtime, runtime_named
from ..deployment.timing import TURN, in_turns, machine
from ..errors import ArgumentError
from ..inputs.examples import one_input
from ..layers.reduced_linear import ReducedLinear
from ..surgery.planned import PlannedSite
from ..surgery.swap import make_swaps, swap
from ..surgery.warm_start import make_ghost
from .config import GhostConfig
from .site_latency import inputs_of, layers_of

log = logging.getLogger(__name__)


MOST = 0.97  # of the original's time that a Ghost module may take: a smaller gain is noise, and not worth the accuracy


REPEATS = 10


LAYER_TURN = 0.03  # seconds


def only_faster(
    model: nn.Module,
    plan: Sequence[PlannedSite],
    config: GhostConfig,
    runtime: str,
    example: Any = None,
    progress: bool = False,
) -> list[PlannedSite]:
    """The plan without the sites that would not be faster.

    Each site is timed by itself beside its Ghost module. Then the student is timed beside the original, where maps that have to
    be copied between sites count, too; while it is not faster, the half of its sites that gain least stay dense as well. A
    student that is faster is timed a second time, and has to be faster again: of many students, one looks faster by chance.

    Args:
        model: the original; it is not changed.
        plan: what would be converted.
        config: settings of the conversion.
        runtime: a name, as for :func:`ghostify.latency`; as many threads as torch has.
        example: what the network is timed on; its batch size counts.
        progress: show a progress bar.

    Raises:
        ArgumentError: a runtime that there is not, or not here; no input known.
    """
    chosen = runtime_named(runtime)
    if (missing := chosen.missing()) is not None:
        raise ArgumentError(f"only_if_faster={runtime!r} can't be used here: {missing}")
    if on_meta(model):
        raise ArgumentError("only_if_faster needs a network that can run, not one on the meta device")
    zeros = one_input(model, example, "only_if_faster")
    x = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0)).to(zeros.dtype)
    quiet = copy_without_hooks(model).eval().cpu()
    timer = Timer(chosen)
    gains, reasons = _by_site(quiet, [p for p in plan if p.ratio is not None], timer, x, progress)
    kept = _without(plan, reasons)
    while gaining := [p.site.name for p in kept if p.site.name in gains and p.ratio is not None]:
        seconds = timer.network(quiet, kept, config, x)
        if seconds.faster:
            seconds = timer.network(quiet, kept, config, x, again=True)
        if seconds.faster:
            break
        told = f"with it the network was not faster on {runtime}: {_told(seconds)}"
        gaining.sort(key=lambda name: gains[name], reverse=True)
        kept = _without(kept, dict.fromkeys(gaining[len(gaining) // 2 :], told))
    return kept


def _by_site(
    model: nn.Module, planned: Sequence[PlannedSite], timer: "Timer", x: Tensor, progress: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """By name, the seconds that each site gains, and why sites that gain nothing stay as they are."""
    gains: dict[str, float] = {}
    reasons: dict[str, str] = {}
    runtime = timer.runtime.name
    inputs = inputs_of(model, [p.site.name for p in planned], (x,))  # some sites never run in evaluation mode
    with site_bar(f"timing on {runtime}", len(inputs), progress) as advance:
        for p in planned:
            name = p.site.name
            if name not in inputs:
                continue
            try:
                seconds = timer.site(p, inputs[name])
            except Exception as error:  # whatever a runtime says of a layer that it can't take
                told = (str(error).strip() or type(error).__name__).splitlines()[0]
                reasons[name] = f"can't be timed on {runtime}: {told}"
            else:
                gains[name] = seconds.original - seconds.ghost
                if not seconds.faster:
                    reasons[name] = f"not faster on {runtime}: {_told(seconds)}"
            advance(name)
    return gains, reasons


@dataclass(frozen=True)
class Seconds:
    """Of one batch: the original and what stands in for it."""

    original: float
    ghost: float

    @property
    def faster(self) -> bool:
        return self.ghost <= MOST * self.original


class Timer:
    """Times layers and networks on a runtime, and remembers what it found, on disk too.

    The file is ``ghostify/latency.json`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``; it may be deleted at any time.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.threads = torch.get_num_threads()
        packages = {package: version(package) for package in ("torch", *runtime.needs)}
        self.about = [machine(), os.cpu_count(), self.threads, runtime.name, packages]
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = folder / "ghostify" / "latency.json"

    def site(self, planned: PlannedSite, x: Tensor) -> Seconds:
        site, layer = planned.site, planned.site.module
        weight: Any = layer.weight
        key = [
            [site.layers, list(weight.shape), str(weight.dtype), list(x.shape)],
            [str(getattr(layer, name, None)) for name in ("stride", "padding", "dilation", "groups")],
            [planned.intrinsic, planned.cheap if site.kind == "conv" else "rank", planned.dw_size],
        ]
        return self._remembered(key, lambda: self._times(fold(layers_of(site)), _ghost(planned), x, LAYER_TURN))

    def network(
        self, model: nn.Module, plan: Sequence[PlannedSite], config: GhostConfig, x: Tensor, again: bool = False
    ) -> Seconds:
        """
        Args:
            again: measured anew, not the same figure once more.
        """
        sites = [(p.site.name, p.intrinsic, p.cheap, p.dw_size) for p in plan if p.ratio is not None]
        shapes = {name: list(p.shape) for name, p in model.named_parameters()}
        digest = hashlib.sha256(json.dumps([sites, shapes, config.to_dict()]).encode()).hexdigest()

        def times() -> Seconds:
            student = swap(model, make_swaps(plan, config.init, config.seed), inplace=False)
            return self._times(for_inference(model, True), for_inference(student, True), x, TURN)

        return self._remembered([type(model).__name__, digest, list(x.shape), *(["again"] if again else [])], times)

    def _times(self, original: nn.Module, ghost: nn.Module, x: Tensor, turn: float) -> Seconds:
        x = self.runtime.placed(x)
        loads = {
            name: self.runtime.prepare(network.cpu(), x, self.threads)
            for name, network in (("original", original), ("ghost", ghost))
        }
        return Seconds(**{name: statistics.median(found) for name, found in in_turns(loads, x, REPEATS, turn).items()})

    def _remembered(self, key: list[Any], measure: Any) -> Seconds:
        name = json.dumps([self.about, key])
        known = self._read()
        if name in known:
            return Seconds(*known[name])
        seconds: Seconds = measure()
        try:
            write_text(self.path, json.dumps({**self._read(), name: [seconds.original, seconds.ghost]}))
        except ArgumentError as error:
            log.warning("what was timed is forgotten: %s", error)
        return seconds

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s can't be read and is made anew: %s", self.path, error)
            return {}
        return found if isinstance(found, dict) else {}


def _ghost(planned: PlannedSite) -> nn.Module:
    """What takes the site's place, folded; what it makes apart stays apart, as in a network where nothing has to be copied."""
    layer: Any = planned.site.module
    if planned.site.kind == "linear":
        return fold(nn.Sequential(ReducedLinear.from_linear(layer, planned.intrinsic)))
    folded: Any = fold(nn.Sequential(make_ghost(planned, init="random")))
    output = next(node for node in folded.graph.nodes if node.op == "output")
    joined = output.args[0]
    if joined.op == "call_module" and isinstance(folded.get_submodule(joined.target), PartedMaps):
        output.args = (joined.args,)
        folded.graph.erase_node(joined)
        folded.recompile()
    made: nn.Module = folded
    return made


def _without(plan: Iterable[PlannedSite], reasons: dict[str, str]) -> list[PlannedSite]:
    """The plan in which these sites stay as they are."""
    return [replace(p, ratio=None, intrinsic=0, reason=reasons[p.site.name]) if p.site.name in reasons else p for p in plan]


def _told(seconds: Seconds) -> str:
    return f"{seconds.ghost * 1e3:.3g} ms, {seconds.original * 1e3:.3g} ms as it is"
