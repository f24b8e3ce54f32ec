"""Whether images have the range of values that a network was trained with."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..common.calls import Arguments, forward_hooks, run_checked
from ..errors import ArgumentError


@torch.no_grad()
def range_warning(teacher: nn.Module, call: Arguments) -> str | None:
    """Compare what the teacher's first batch norm sees of a batch with what it saw in training.

    Args:
        teacher: in evaluation mode; one forward pass is run.
        call: its arguments, those of the first batch.

    Returns:
        A sentence for the user where the variance differs eightfold or more; None where it does not, and where no batch norm
        tells.

    Raises:
        ArgumentError: the network does not take the images, they are single images in place of batches, or their variance
            differs by a factor of 200 or more.
    """
    first_pass = _FirstPass()
    norms = [m for m in teacher.modules() if isinstance(m, _BatchNorm)]
    convs = [m for m in teacher.modules() if isinstance(m, _ConvNd)]
    hooks: list[tuple[nn.Module, Callable[..., None]]] = [
        *((norm, first_pass.see_norm) for norm in norms),
        *((conv, first_pass.see_convolution) for conv in convs),
    ]
    with forward_hooks(before=hooks):
        run_checked(teacher, *call)
    if first_pass.lacks_batch and all(first_pass.lacks_batch):  # a network may itself take maps one by one somewhere
        raise ArgumentError("images are not batches (N, C, H, W) but single images: wrap them in a DataLoader, or stack them")
    variance = first_pass.variance
    if variance is None or 1 / 8 < variance < 8:
        return None
    finding = f"the teacher's first batch norm sees {variance:.2g} times the variance that it saw in training"
    if not 1 / 200 < variance < 200:
        raise ArgumentError(
            f"images have another range than the teacher was trained with: {finding}; preprocess them as for evaluation"
        )
    return f"images may lack the model's preprocessing: {finding}"


@dataclass
class _FirstPass:
    """What hooks have seen of one forward pass.

    Attributes:
        variance: median over channels of what the first batch norm saw, relative to its running variance.
        lacks_batch: for each convolution called by position, whether its input has no dimension for the batch.
    """

    variance: float | None = None
    lacks_batch: list[bool] = field(default_factory=list)

    def see_norm(self, norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0]
        if self.variance is None and maps.dim() > 2 and norm.running_var is not None and maps.numel() > maps.shape[1]:
            variance = maps.transpose(0, 1).flatten(1).float().var(1)
            live = norm.running_var > 1e-6 * norm.running_var.max()
            self.variance = float((variance / norm.running_var)[live].median())

    def see_convolution(self, conv: _ConvNd, inputs: tuple[Tensor, ...]) -> None:
        self.lacks_batch.extend(maps.dim() < conv.weight.dim() for maps in inputs[:1])
