"""The latency of the layers at a site, on this machine, in eager mode."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..common.calls import PositionalArguments
from ..deployment.fold import for_inference
from ..deployment.runtimes import runtime_named
from ..deployment.timing import seconds_of
from ..graph.sites import Site
from ..surgery.planned import PlannedSite
from .runtime_timer import RuntimeTimer
from .site_layers import inputs_of

TIMED = (0.25, 0.4, 0.55, 0.7, 0.85)  # shares of intrinsic channels that are timed; times of other shares are interpolated


class LatencyCosts:
    """The seconds that the layers of each site take in one forward pass, and the seconds of the whole model, all folded.

    Times of layers are remembered on disk, as those of ``only_if_faster`` are.

    Args:
        model: the original network; it is not changed, and layers are timed on its device.
        sites: the sites that are to be timed.
        arguments: arguments of a forward pass, of the batch size that layers are timed with.

    Attributes:
        total: seconds of one forward pass of the whole model.
        inputs: noise of the shape of each site's input, by the site's name; a site that never runs has none.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], arguments: PositionalArguments):
        quiet = for_inference(model, False)
        device = next(quiet.parameters()).device
        arguments = tree_map_only(Tensor, lambda t: t.to(device), arguments)
        self.inputs = inputs_of(quiet, [site.name for site in sites], arguments)
        self.timer = RuntimeTimer(runtime_named("cuda" if device.type == "cuda" else "eager"))
        folded = for_inference(model, True)
        self.total = seconds_of(lambda: folded(*arguments))

    def dense(self, site: Site) -> float:
        """The seconds of the layers of the original network that stand at a site; none where it never runs."""
        return self.timer.layers(site, self.inputs[site.name]) if site.name in self.inputs else 0.0

    def ghost(self, planned: PlannedSite) -> float:
        """The seconds of the layer that is planned for a site; none where it never runs.

        Ghost modules of a few sizes are timed; the seconds of other sizes are interpolated.
        """
        site = planned.site
        if site.name not in self.inputs:
            return 0.0
        x = self.inputs[site.name]
        if site.kind == "linear":
            return self.timer.ghost(planned, x)
        conv = site.conv
        timed = sorted({max(1, round(share * conv.out_channels / conv.groups)) * conv.groups for share in TIMED})
        seconds = [self.timer.ghost(replace(planned, intrinsic=m), x) for m in timed if m < conv.out_channels]
        return float(np.interp(planned.intrinsic, timed[: len(seconds)], seconds))
