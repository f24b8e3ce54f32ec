"""Warm start: intrinsic channels, the source of each ghost, cheap kernels and norms, from the weights alone.

The model behind it: inputs are white noise, so two channels of a layer correlate as their filters do, and each is Gaussian
with the mean and deviation that its norm prescribes. Everything below is least squares under that model. Kernels of the
depthwise operation get their centre tap only: fitting all taps was tried and gained one point on ResNet-56 before any
calibration, at five times the time.
"""

from typing import Any

import torch

from ..layers.convolution import as_convolution
from ..layers.ghost_module import GhostModule
from .planned import PlannedSite
from .source_choice import by_position, choose_sources
from .white_noise import TINY, Channels, channel_correlation, describe_channels, ghost_costs


def make_ghost(planned: PlannedSite, init: str = "warm", seed: int = 0) -> GhostModule:
    """The Ghost module for a planned convolution, with its starting weights.

    Args:
        planned: a site that has a ratio.
        init: ``"warm"`` or ``"random"``; on the meta device neither computes anything.
        seed: the seed of ``"random"``; the caller's random state is left as it was.
    """
    site = planned.site
    conv, m = site.conv, planned.intrinsic
    warm = init == "warm" and not conv.weight.is_meta
    channels = describe_channels(conv, site.norm, site.act) if warm else None
    if channels is not None:
        intrinsic, sources = choose_sources(ghost_costs(channels, conv.groups), m, conv.groups)
    else:
        intrinsic, sources = by_position(conv.out_channels, m, conv.groups)
    ghost = GhostModule.from_conv(
        conv,
        intrinsic,
        sources,
        norm=site.norm,
        act=site.act,
        act_inside=site.act_name is not None,
        dw_size=planned.dw_size,
        cheap=planned.cheap,
    )
    if channels is not None:
        _fit(ghost, channels, conv.groups)
    elif not conv.weight.is_meta:
        _reset(ghost, seed)
    return ghost


@torch.no_grad()
def _fit(ghost: GhostModule, channels: Channels, groups: int) -> None:
    """Regress each ghost map, before its activation, on the maps it is made from."""
    kept, others = ghost.original_channels()
    slope, std = channels.slope, channels.std
    carried = slope * std  # the part of a map after its activation that is linear in the map before
    conv = as_convolution(ghost.cheap_operation[0])
    noise = (channels.out_var - carried**2).clamp_min(0)
    if ghost.cheap == "pointwise":
        correlation = channel_correlation(channels, groups)
        covariance = correlation[kept][:, kept] * carried[kept, None] * carried[kept] + noise[kept].diag()
        target = correlation[others][:, kept] * std[others, None] * carried[kept]
        ridge = 1e-3 * covariance.diagonal().mean() + TINY
        kernel = torch.linalg.solve(covariance + ridge * torch.eye(len(kept)).to(covariance), target.T).T
        mean = kernel @ channels.out_mean[kept]
        variance = (kernel @ covariance * kernel).sum(1)
        taps = kernel.reshape(conv.weight.shape)
    else:
        source = kept[ghost.source_positions()]
        same_inputs = others * groups // len(std) == source * groups // len(std)  # of one group
        correlation = (channels.filters[others] * channels.filters[source]).flatten(1).sum(1) * same_inputs.to(std)
        kernel = correlation * std[others] * carried[source] / channels.out_var[source].clamp_min(TINY)
        mean = kernel * channels.out_mean[source]
        variance = kernel**2 * channels.out_var[source]
        taps = conv.weight * kernel.view(-1, *[1] * (conv.weight.dim() - 1))  # so far it has a one in its centre
    norm: Any = ghost.cheap_operation[1] if len(ghost.cheap_operation) > 1 else None
    norm = norm if hasattr(norm, "running_var") else None
    if norm is None:
        if conv.bias is not None:
            conv.bias.copy_(channels.mean[others] - mean)
    else:
        # the norm undoes any scale, so each kernel gets the length of the filter it replaces: a length far from it
        # would be a different learning rate
        scale = channels.length[others] / taps.flatten(1).norm(dim=1).clamp_min(TINY)
        taps = taps * scale.view(-1, *[1] * (taps.dim() - 1))
        variance = variance * scale**2
        if norm.weight is not None:
            norm.weight.copy_((variance + norm.eps).sqrt() / scale)
        if norm.running_var is not None:
            norm.running_mean.copy_(mean * scale)
            norm.running_var.copy_(variance)
    conv.weight.copy_(taps)


def _reset(ghost: GhostModule, seed: int) -> None:
    """Random weights, for training from scratch; then the order of channels carries no meaning."""
    device = next(ghost.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for layer in ghost.modules():
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
    ghost.channel_order = None
