"""Losses of single batches, from the step that computes them to the sums of an epoch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.processes import sum_over_processes


@dataclass(frozen=True)
class BatchLosses:
    """Losses of some batches, each the mean over all processes.

    Attributes:
        names: of the losses; ``loss`` is their weighted sum.
        values: (batches, losses), on the CPU.
    """

    names: list[str]
    values: Tensor

    @property
    def last(self) -> dict[str, float]:
        """The losses of the last batch by name."""
        return dict(zip(self.names, self.values[-1].tolist(), strict=True))

    @property
    def batches_since_bad(self) -> int:
        """How many batches came after the first that has a loss which is not finite."""
        bad = int((~torch.isfinite(self.values).all(1)).nonzero()[0])
        return len(self.values) - 1 - bad


class PendingLosses:
    """Losses that nobody has looked at yet; a look waits for the device, so many batches share one."""

    def __init__(self, processes: int):
        self.processes = processes
        self.batches: list[dict[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def note(self, losses: list[dict[str, Tensor]]) -> None:
        """Keep the losses of some batches, each by its name, for the next look."""
        self.batches += losses

    def take(self) -> BatchLosses | None:
        """The losses since the last look, averaged over all processes; None where there are none."""
        batches, self.batches = self.batches, []
        if not batches:
            return None
        names = list(batches[0])
        values = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in batches])
        return BatchLosses(names, sum_over_processes(values) / self.processes)
