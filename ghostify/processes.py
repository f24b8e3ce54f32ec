"""Values of all processes together."""

import torch
from torch import Tensor


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, on the CPU."""
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    total: Tensor = reduce(values.to(state.device), "sum") if state.num_processes > 1 else values
    return total.cpu()


def largest(value: int) -> int:
    """The largest that a process has."""
    from accelerate import PartialState

    state = PartialState()
    if state.num_processes == 1:
        return value
    most = torch.tensor(value, device=state.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)
