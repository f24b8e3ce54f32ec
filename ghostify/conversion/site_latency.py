"""The latency of the layers at a site, on this machine, in eager mode."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..common.calls import PositionalArguments, forward_hooks
from ..common.copying import copy_without_hooks
from ..deployment.timing import seconds_of
from ..graph.sites import Site
from ..layers.reduced_linear import ReducedLinear
from ..surgery.planned import PlannedSite
from ..surgery.warm_start import make_ghost

TIMED = (0.25, 0.4, 0.55, 0.7, 0.85)  # shares of intrinsic channels that are timed; times of other shares are interpolated


class LatencyCosts:
    """The seconds that the layers of each site take in one forward pass, and the seconds of the whole model.

    Args:
        model: the original network; it is not changed, and layers are timed on its device.
        sites: the sites that are to be timed.
        arguments: arguments of a forward pass, of the batch size that layers are timed with.

    Attributes:
        total: seconds of one forward pass of the whole model.
        inputs: noise of the shape of each site's input, by the site's name; a site that never runs has none.
        known: the seconds of layers that were timed, by everything that they depend on.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: PositionalArguments):
        quiet = copy_without_hooks(model).eval()
        device = next(quiet.parameters()).device
        arguments = tree_map_only(Tensor, lambda t: t.to(device), arguments)
        self.inputs = inputs_of(quiet, [site.name for site in sites], arguments)
        self.known: dict[tuple[object, ...], float] = {}
        self.total = seconds_of(lambda: quiet(*arguments))

    def dense(self, site: Site) -> float:
        """The seconds of the layers of the original network that stand at a site."""
        return self._seconds(site, "dense", lambda: layers_of(site))

    def ghost(self, planned: PlannedSite) -> float:
        """The seconds of the layer that is planned for a site.

        Ghost modules of a few sizes are timed; the seconds of other sizes are interpolated.
        """
        site = planned.site
        if site.kind == "linear":
            kind = f"rank {planned.intrinsic}"
            return self._seconds(site, kind, lambda: ReducedLinear.from_linear(site.linear, planned.intrinsic))
        conv = site.conv
        timed = sorted({max(1, round(share * conv.out_channels / conv.groups)) * conv.groups for share in TIMED})
        seconds = [self._ghost(replace(planned, intrinsic=m)) for m in timed if m < conv.out_channels]
        return float(np.interp(planned.intrinsic, timed[: len(seconds)], seconds))

    def _ghost(self, planned: PlannedSite) -> float:
        """The seconds of the Ghost module of just the size that is planned for a site."""
        kind = f"{planned.intrinsic} {planned.cheap} {planned.dw_size}"
        return self._seconds(planned.site, kind, lambda: make_ghost(planned, init="random"))

    def _seconds(self, site: Site, kind: str, build: Callable[[], nn.Module]) -> float:
        """The seconds of the layers that ``build`` makes, on the input of a site; sites of the same shape are timed once.

        Args:
            site: the site, which takes no time where it never runs.
            kind: which layers these are, in words: those of the original network, or those of a plan.
            build: makes the layers.
        """
        if site.name not in self.inputs:
            return 0.0  # never runs in evaluation mode
        x = self.inputs[site.name]
        weight, stride = site.weighted.weight, getattr(site.module, "stride", 1)
        key = (kind, site.layers, tuple(x.shape), x.dtype, tuple(weight.shape), stride)
        if key not in self.known:
            layers = copy_without_hooks(build()).eval()
            with torch.no_grad():
                self.known[key] = seconds_of(lambda: layers(x))
        return self.known[key]


@torch.no_grad()
def inputs_of(model: nn.Module, names: Sequence[str], arguments: PositionalArguments) -> dict[str, Tensor]:
    """Noise of the shape of each layer's input, by the layer's name. A layer that does not run has none.

    Args:
        model: the network, in evaluation mode.
        names: qualified names of the layers.
        arguments: arguments of a forward pass of the network.
    """
    noise: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            noise[name] = torch.randn_like(inputs[0])

        return hook

    with forward_hooks(before=((model.get_submodule(name), note(name)) for name in names)):
        model(*arguments)
    return noise


def layers_of(site: Site) -> nn.Sequential:
    """The layers of a site that a Ghost module stands in for: the convolution, and the norm and the activation after it."""
    layers = [site.module, site.norm if site.norm_name else None, site.act if site.act_name else None]
    return nn.Sequential(*(layer for layer in layers if layer is not None))
