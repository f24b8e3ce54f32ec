"""Latency of the layers at a site, on this machine and as they would run in eager mode."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..common.calls import forward_hooks
from ..common.copying import copy_without_hooks
from ..deployment.timing import seconds_of
from ..graph.sites import Site
from ..layers.reduced_linear import ReducedLinear
from ..surgery.planned import PlannedSite
from ..surgery.warm_start import make_ghost

TIMED = (0.25, 0.4, 0.55, 0.7, 0.85)  # shares of intrinsic channels that are timed; what lies between is interpolated


class LatencyCosts:
    """Seconds of each site in one forward pass, and of the whole model.

    Args:
        model: the original network; it is not changed.
        sites: the sites that are to be timed.
        arguments: arguments of a forward pass; their batch size, and the model's device, are what latency is wanted for.

    Attributes:
        total: seconds of the whole model.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: tuple[Any, ...]):
        quiet = copy_without_hooks(model).eval()
        device = next(quiet.parameters()).device
        arguments = tree_map_only(Tensor, lambda t: t.to(device), arguments)
        self.inputs = inputs_of(quiet, [site.name for site in sites], arguments)
        self.known: dict[tuple[Any, ...], float] = {}
        self.total = seconds_of(lambda: quiet(*arguments))

    def dense(self, site: Site) -> float:
        """Seconds of the layers that stand at a site."""
        return self._seconds(site, "dense", lambda: layers_of(site))

    def ghost(self, planned: PlannedSite) -> float:
        """Seconds of what would stand there as planned; of Ghost modules a few sizes are timed, and others interpolated."""
        conv: Any = planned.site.module
        if planned.site.kind == "linear":
            return self._seconds(
                planned.site, f"rank {planned.intrinsic}", lambda: ReducedLinear.from_linear(conv, planned.intrinsic)
            )
        timed = sorted({max(1, round(share * conv.out_channels / conv.groups)) * conv.groups for share in TIMED})
        seconds = [self._ghost(replace(planned, intrinsic=m)) for m in timed if m < conv.out_channels]
        return float(np.interp(planned.intrinsic, timed[: len(seconds)], seconds))

    def _ghost(self, planned: PlannedSite) -> float:
        kind = f"{planned.intrinsic} {planned.cheap} {planned.dw_size}"
        return self._seconds(planned.site, kind, lambda: make_ghost(planned, init="random"))

    def _seconds(self, site: Site, kind: str, build: Callable[[], nn.Module]) -> float:
        """Sites of the same shape take the same time."""
        if site.name not in self.inputs:
            return 0.0  # never runs in evaluation mode
        x = self.inputs[site.name]
        module: Any = site.module
        key = (kind, site.layers, tuple(x.shape), x.dtype, tuple(module.weight.shape), getattr(module, "stride", 1))
        if key not in self.known:
            layers = copy_without_hooks(build()).eval()
            with torch.no_grad():
                self.known[key] = seconds_of(lambda: layers(x))
        return self.known[key]


@torch.no_grad()
def inputs_of(model: nn.Module, names: Sequence[str], arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """Noise of the shape that each layer gets; nothing for a layer that does not run."""
    noise: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            noise[name] = torch.randn_like(inputs[0])

        return hook

    with forward_hooks(before=((model.get_submodule(name), note(name)) for name in names)):
        model(*arguments)
    return noise


def layers_of(site: Site) -> nn.Sequential:
    """The layers of a site that a Ghost module stands in for: the layer itself, and the norm and activation after it."""
    layers = [site.module, site.norm if site.norm_name else None, site.act if site.act_name else None]
    return nn.Sequential(*(layer for layer in layers if layer is not None))
