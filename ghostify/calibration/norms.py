"""Batch-norm statistics from images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.buffers import kept_buffers
from ..common.calls import Arguments, evaluation_mode, forward_hooks, run_checked
from ..common.checks import check_is_module, whole_number
from ..inputs.images import ImageData, as_calls


def reestimate_norms(student: nn.Module, images: ImageData, *, max_images: int | None = None, batch_size: int = 128) -> int:
    """Set the running mean and variance of every batch norm to what it sees on these images, in place.

    As in training, each batch is normalised by its own statistics on its way through the network, and the running ones
    become the average over images. A norm that no batch reaches keeps its own. No other parameter changes. It mends a
    network whose filters were changed without looking at data; after :func:`ghostify.calibrate`, which sets statistics as
    it goes, it is not needed.

    Args:
        student: any model with batch norm.
        images: as for :func:`ghostify.calibrate`; labels are ignored.
        max_images: use so many at most; None for all.
        batch_size: images at a time where ``images`` is not already in batches.

    Returns:
        The number of batch norms.

    Raises:
        ArgumentError: no image, or images that the model does not take; the model is then as it was.
    """
    check_is_module("student", student)
    if max_images is not None:
        max_images = whole_number("max_images", max_images, 1)
    batch_size = whole_number("batch_size", batch_size, 1)
    norms = [m for m in student.modules() if isinstance(m, _BatchNorm) and m.running_var is not None]
    buffers = {norm: {name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms}
    momenta = {norm: norm.momentum for norm in norms}
    images_seen: dict[nn.Module, int] = {}  # images that went into the statistics so far

    def weigh(norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        """A batch counts by its images; a single number for each channel has no variance, and is only passed on."""
        maps = inputs[0]
        norm.train(maps.numel() > maps.shape[1])
        if norm.training:
            images_seen[norm] = images_seen.get(norm, 0) + len(maps)
            norm.momentum = len(maps) / images_seen[norm]

    with evaluation_mode(student), forward_hooks(before=((norm, weigh) for norm in norms)):
        try:
            with torch.no_grad():
                for args, kwargs in as_calls(images, student, max_images, batch_size):
                    run_checked(student, args, kwargs)
        except BaseException:
            for norm in norms:
                _restore(norm, buffers[norm])
            raise
        finally:
            for norm in norms:
                norm.momentum = momenta[norm]
    return len(norms)


def _restore(norm: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, buffer in buffers.items():
        getattr(norm, name).copy_(buffer)


@torch.no_grad()
def settle_norms(model: nn.Module, calls: Iterable[Arguments]) -> None:
    """Set batch-norm statistics to what each norm sees in evaluation mode, and its scale and bias such that the network
    computes what it computed before.

    Statistics can't be changed alone once weights were trained with them in place: on ResNet-56 that cost a point.

    Args:
        model: it is changed in place.
        calls: the arguments of a forward pass for each batch.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_var is not None and m.affine]
    sums: dict[nn.Module, _ChannelSums] = {norm: _ChannelSums() for norm in norms}

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sums[norm].add(inputs[0].detach().transpose(0, 1).flatten(1).double())

    with evaluation_mode(model), kept_buffers(model), forward_hooks(before=((norm, add) for norm in norms)):
        for args, kwargs in calls:
            model(*args, **kwargs)
    for norm in norms:
        if sums[norm].count >= 2:
            _settle(norm, sums[norm])


@dataclass
class _ChannelSums:
    """Sums over all values of each channel that reached a norm."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Add (channels, values)."""
        self.count += values.shape[1]
        self.total = self.total + values.sum(1)
        self.squares = self.squares + values.square().sum(1)


def _settle(norm: Any, sums: _ChannelSums) -> None:
    """Give a norm other statistics and let its scale and bias make up for the change."""
    mean = sums.total / sums.count
    variance = torch.as_tensor(sums.squares / sums.count - mean**2).clamp_min(0)
    old_scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    norm.bias.add_(((mean - norm.running_mean.double()) * old_scale).to(norm.bias))
    norm.weight.copy_(old_scale * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
