"""Values of all processes together."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import PartialState


def process_state() -> "PartialState":
    """This process among those of ``torchrun`` or ``accelerate launch``. Without an accelerator they are joined on the CPU,
    which accelerate has to be told: under ``torchrun`` each would take itself for the only one."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, on the CPU."""
    from accelerate.utils import reduce

    state = process_state()
    total: Tensor = reduce(values.to(state.device), "sum") if state.num_processes > 1 else values
    return total.cpu()


def largest(value: int) -> int:
    """The largest that a process has."""
    state = process_state()
    if state.num_processes == 1:
        return value
    most = torch.tensor(value, device=state.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)
