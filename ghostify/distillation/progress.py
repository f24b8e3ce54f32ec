"""How far a distillation run is."""

from dataclasses import dataclass, field
from typing import Any

from .report import EpochResult


@dataclass
class Progress:
    """Where a run stands; together with the weights and the optimizer's state, all that going on needs."""

    step: int = 0
    epoch: int = 0  # that are complete
    batch: int = 0  # of this epoch
    seconds: float = 0.0  # of training, without validation
    sums: dict[str, float] = field(default_factory=dict)  # of the losses in this epoch
    summed: int = 0  # steps in them
    images: int = 0  # in this epoch
    epoch_seconds: float = 0.0
    history: list[EpochResult] = field(default_factory=list)
    best: int | None = None
    ended: str = ""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Progress":
        return cls(**{**data, "history": [EpochResult(**row) for row in data["history"]]})
