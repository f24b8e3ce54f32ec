"""The folder of a distillation run: checkpoint, history, curve, student."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..common.files import write_text
from ..errors import ArgumentError
from ..students.storage import RUN_WEIGHTS, save
from .report import EpochResult, RecoveryReport, history_csv
from .training_recipe import Recipe

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class RunFolder:
    """What a run leaves behind.

    Args:
        path: of the folder; :meth:`begin` makes it where there is none.

    Attributes:
        checkpoint: path of the checkpoint.
        tensorboard: writer of TensorBoard's files, once the run has begun; None where TensorBoard is not installed.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoint = path / "checkpoint.safetensors"
        self.tensorboard: SummaryWriter | None = None

    def begin(self, recipe: Recipe) -> None:
        """Make the folder and write recipe.yaml.

        Raises:
            ArgumentError: the folder can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            recipe.save(self.path / "recipe.yaml")
        except OSError as error:
            raise ArgumentError(f"out {str(self.path)!r} can't be written: {error.strerror}") from error
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:  # it is not installed
            return
        self.tensorboard = SummaryWriter(str(self.path / "tensorboard"))

    def write_history(self, history: list[EpochResult]) -> None:
        """Write history.csv, and for TensorBoard the last epoch."""
        write_text(self.path / "history.csv", history_csv(history))
        if self.tensorboard is not None:
            for name, value in history[-1].flat().items():
                if name not in ("epoch", "step") and value is not None:
                    self.tensorboard.add_scalar(name, value, history[-1].step)

    def finish(self, student: nn.Module, report: RecoveryReport) -> None:
        """Write student.safetensors and curve.png."""
        from matplotlib.figure import Figure

        save(student, self.path / RUN_WEIGHTS)
        figure = Figure(figsize=(7, 4), layout="constrained")
        report.plot(figure.subplots())
        figure.savefig(self.path / "curve.png", dpi=120)
        if self.tensorboard is not None:
            self.tensorboard.close()
