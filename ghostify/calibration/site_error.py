"""How far a module's output is from what the teacher asks of its site."""

import math

import torch
from torch import Tensor, nn

from ..absorption.patches import at_positions
from .site_data import Batch, SiteData

ERROR_IMAGES = 128  # images, about, that errors are measured on


def relative_error(data: SiteData, module: nn.Module) -> float:
    """Squared error of the site's output after its activation, relative to the variance of what it should be."""
    wrong, count = 0.0, 0
    sums = squares = torch.zeros(data.n, dtype=torch.float64, device=data.device)
    stride = max(1, math.ceil(data.images / ERROR_IMAGES))
    for index, (batch, positions) in enumerate(data.sampled()):
        if index % stride:
            continue
        output, target = _output_and_target(data, module.eval(), batch, positions)
        wrong += float((output - target).double().square().sum())
        sums = sums + target.double().sum(0)
        squares = squares + target.double().square().sum(0)
        count += len(target)
    total = float((squares - sums**2 / max(count, 1)).clamp_min(0).sum())
    return wrong / max(total, 1e-30)


def _output_and_target(data: SiteData, module: nn.Module, batch: Batch, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """(P, n) what the module gives and what it should give, both after the site's activation."""
    output = at_positions(module(batch.inputs), positions).float()
    outside = data.site.act_name is None  # the activation stays in the network, behind the module
    act = data.site.act
    if data.sees_image:
        assert data.site.norm is not None
        maps = data.site.norm(batch.output)
        return output, at_positions(maps if outside or act is None else act(maps), positions).float()
    target, _ = data.target(batch, positions)
    if batch.total is None and data.act is not None:
        target = data.act(target.clone())
        output = data.act(output) if outside and act is not None else output
    return output, target
