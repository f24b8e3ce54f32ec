"""Batch norm over the batches of all processes, on any device; torch's own SyncBatchNorm needs a GPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SyncedNorms(TorchFunctionMode):
    """While active, batch norms in training normalise by the mean and variance over all processes, whatever their class.

    Processes must have batches of equal size.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func is F.batch_norm and _is_training(*args, **kwargs):
            return _batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _is_training(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *momentum_and_eps: float,
    **named: float,
) -> bool:
    """The argument ``training`` of a call of :func:`torch.nn.functional.batch_norm`."""
    return training


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm as :func:`torch.nn.functional.batch_norm` has it in training, over the batches of all processes."""
    from torch.distributed.nn.functional import all_reduce

    dims = [d for d in range(input.dim()) if d != 1]
    shape = [1, -1, *[1] * (input.dim() - 2)]
    wide = input.float()
    processes = torch.distributed.get_world_size()
    mean, square = all_reduce(torch.stack([wide.mean(dims), wide.square().mean(dims)]) / processes)
    var = (square - mean.square()).clamp_min(0)
    if running_mean is not None and running_var is not None:
        count = input.numel() // input.shape[1] * processes
        with torch.no_grad():
            running_mean.lerp_(mean.detach().to(running_mean), momentum)
            running_var.lerp_((var.detach() * count / max(count - 1, 1)).to(running_var), momentum)
    output = (wide - mean.view(shape)) * torch.rsqrt(var + eps).view(shape)
    output = output if weight is None else output * weight.view(shape)
    output = output if bias is None else output + bias.view(shape)
    return output.to(input.dtype)
