"""The processes of ``torchrun`` or ``accelerate launch``, and values of all of them together."""

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


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of each process's values, on the CPU and the same in all of them."""
    from accelerate.utils import reduce

    state = process_state()
    total: Tensor = reduce(values.to(state.device), "sum") if state.num_processes > 1 else values
    return total.cpu()


def max_over_processes(value: int) -> int:
    """The largest of each process's value, the same in all of them."""
    state = process_state()
    if state.num_processes == 1:
        return value
    largest = torch.tensor(value, device=state.device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)
