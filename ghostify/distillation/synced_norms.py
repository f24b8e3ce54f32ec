"""Batch norm over the batches of all processes, on any device; torch's own SyncBatchNorm needs a GPU."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SyncedNorms(TorchFunctionMode):
    """While active, batch norms in training normalise by the mean and variance over all processes, whatever their class.

    Processes must have batches of equal size.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm and _is_training(*args, **(kwargs or {})):
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _is_training(
    x: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False, *others: Any, **named: Any
) -> bool:
    return training


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    from torch.distributed.nn.functional import all_reduce

    dims = [d for d in range(x.dim()) if d != 1]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    wide = x.float()
    processes = torch.distributed.get_world_size()
    mean, square = all_reduce(torch.stack([wide.mean(dims), wide.square().mean(dims)]) / processes)
    var = (square - mean.square()).clamp_min(0)
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1] * processes
        with torch.no_grad():
            running_mean.lerp_(mean.detach().to(running_mean), momentum)
            running_var.lerp_((var.detach() * count / max(count - 1, 1)).to(running_var), momentum)
    made = (wide - mean.view(shape)) * torch.rsqrt(var + eps).view(shape)
    made = made if weight is None else made * weight.view(shape)
    made = made if bias is None else made + bias.view(shape)
    return made.to(x.dtype)
