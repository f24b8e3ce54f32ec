"""The folder of a distillation run: checkpoints, history, curve, student."""

from pathlib import Path
from typing import Any

from torch import nn

from ..common.files import write_text
from ..errors import ArgumentError
from ..students.storage import save
from .recipe import Recipe
from .report import EpochResult, RecoveryReport, history_csv


class RunFolder:
    """What a run leaves behind."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.board: Any = None

    def begin(self, recipe: Recipe) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            recipe.save(self.path / "recipe.yaml")
        except OSError as error:
            raise ArgumentError(f"out {str(self.path)!r} can't be written: {error.strerror}") from error
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # it is not installed
            return
        self.board = SummaryWriter(str(self.path / "tensorboard"))

    def write_history(self, history: list[EpochResult]) -> None:
        """Write history.csv, and for TensorBoard the last epoch."""
        write_text(self.path / "history.csv", history_csv(history))
        if self.board is not None:
            row = history[-1].flat()
            for name in row.keys() - {"epoch", "step"}:
                if row[name] is not None:
                    self.board.add_scalar(name, row[name], history[-1].step)

    def finish(self, student: nn.Module, report: RecoveryReport) -> None:
        from matplotlib.figure import Figure

        save(student, self.path / "student.safetensors")
        figure = Figure(figsize=(7, 4), layout="constrained")
        report.plot(figure.subplots())
        figure.savefig(self.path / "curve.png", dpi=120)
        if self.board is not None:
            self.board.close()
