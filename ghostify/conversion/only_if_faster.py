"""only_if_faster: sites that a Ghost module would not make faster on a runtime stay as they are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..common.copying import copy_without_hooks, on_meta
from ..common.progress import site_bar
from ..common.text import first_line
from ..deployment.runtimes import runtime_named
from ..errors import ArgumentError, UnsupportedModelError
from ..inputs.examples import one_input
from ..surgery.planned import PlannedSite
from .runtime_timer import RuntimeTimer, Seconds
from .settings import GhostConfig
from .site_layers import inputs_of
from .target import Budget

ROUNDS = 8  # of sharing a target out

MOST = 0.97  # of the original's time that a Ghost module may take: a smaller gain is noise, and not worth the accuracy


def only_faster(
    model: nn.Module,
    plan: Sequence[PlannedSite],
    config: GhostConfig,
    runtime: str,
    example: object = None,
    progress: bool = False,
) -> list[PlannedSite]:
    """The plan without the sites that would not be faster.

    Each site is timed by itself beside its Ghost module. Then the student is timed beside the original, where maps that have to
    be copied between sites count, too; while it is not faster, the half of its sites that gain least stay dense as well. A
    student that is faster is timed a second time, and has to be faster again: of many students, one looks faster by chance.

    Args:
        model: the original network; it is not changed.
        plan: what would be converted.
        config: settings of the conversion.
        runtime: a name, as for :func:`ghostify.latency`; as many threads as torch has.
        example: what the network is timed on; its batch size counts.
        progress: show a progress bar.

    Raises:
        ArgumentError: there is no such runtime, or it can't be used here; or no input of the network is known.
    """
    chosen = runtime_named(runtime)
    if (missing := chosen.missing()) is not None:
        raise ArgumentError(f"only_if_faster={runtime!r} can't be used here: {missing}")
    if on_meta(model):
        raise ArgumentError("only_if_faster needs a network that can run, not one on the meta device")
    zeros = one_input(model, example, "only_if_faster")
    x = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0)).to(zeros.dtype)
    quiet = copy_without_hooks(model).eval().cpu()
    timer = RuntimeTimer(chosen)
    gains, reasons = _by_site(quiet, [p for p in plan if p.ratio is not None], timer, x, progress)
    kept = _without(plan, reasons)
    while gaining := [p.site.name for p in kept if p.site.name in gains and p.ratio is not None]:
        seconds = timer.network(quiet, kept, config, x)
        if _is_faster(seconds):
            seconds = timer.network(quiet, kept, config, x, again=True)
        if _is_faster(seconds):
            break
        reason = f"with it the network was not faster on {runtime}: {_in_words(seconds)}"
        gaining.sort(key=lambda name: gains[name], reverse=True)
        kept = _without(kept, dict.fromkeys(gaining[len(gaining) // 2 :], reason))
    return kept


def only_faster_within(
    model: nn.Module,
    share_out: Callable[[GhostConfig], tuple[list[PlannedSite], Budget]],
    config: GhostConfig,
    runtime: str,
    example: object = None,
    progress: bool = False,
) -> tuple[list[PlannedSite], Budget]:
    """A plan that keeps to a target with sites that are faster alone.

    The target is shared out, what would not be faster stays dense, and the target is shared out over the others, until all of
    the plan is faster.

    Args:
        model, config, runtime, example, progress: as for :func:`only_faster`.
        share_out: makes the plan that keeps to the target, with the settings that it gets.

    Returns:
        The plan, and what the target came to.

    Raises:
        ArgumentError: the target is out of reach with the sites that are faster, or as for :func:`only_faster`.
    """
    slow: dict[str, str] = {}
    for _ in range(ROUNDS):
        try:
            plan, budget = share_out(replace(config, ratios={**config.ratios, **dict.fromkeys(slow)}))
        except (ArgumentError, UnsupportedModelError) as error:
            if not slow:
                raise
            sites = f"{len(slow)} site{'s stay' if len(slow) > 1 else ' stays'}"
            raise ArgumentError(f"{error}; {sites} dense: not faster on {runtime}") from error
        plan = _without(plan, slow)
        kept = only_faster(model, plan, config, runtime, example, progress)
        converted = {p.site.name for p in plan if p.ratio is not None}
        found = {p.site.name: str(p.reason) for p in kept if p.ratio is None and p.site.name in converted}
        if not found:
            return kept, budget
        slow |= found
    raise ArgumentError(
        f"target is out of reach with Ghost modules that are faster on {runtime}: after {ROUNDS} rounds, with {len(slow)} "
        "sites dense, some of the others were not"
    )


def _by_site(
    model: nn.Module, planned: Sequence[PlannedSite], timer: RuntimeTimer, x: Tensor, progress: bool
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
                reasons[name] = f"can't be timed on {runtime}: {first_line(error)}"
            else:
                gains[name] = seconds.original - seconds.ghost
                if not _is_faster(seconds):
                    reasons[name] = f"not faster on {runtime}: {_in_words(seconds)}"
            advance(name)
    return gains, reasons


def _is_faster(seconds: Seconds) -> bool:
    return seconds.ghost <= MOST * seconds.original


def _without(plan: Iterable[PlannedSite], reasons: dict[str, str]) -> list[PlannedSite]:
    """The plan in which these sites stay as they are."""
    return [replace(p, ratio=None, intrinsic=0, reason=reasons[p.site.name]) if p.site.name in reasons else p for p in plan]


def _in_words(seconds: Seconds) -> str:
    return f"{seconds.ghost * 1e3:.3g} ms, {seconds.original * 1e3:.3g} ms as it is"
