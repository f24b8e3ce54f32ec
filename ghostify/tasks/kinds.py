"""Which task goes with which kind of network."""

from torch import nn

from ..errors import ArgumentError, ArgumentTypeError
from ..losses import main_output
from .maps import Maps
from .scores import Scores
from .task import Outputs, Task


def task_for(model: nn.Module, outputs: Outputs, task: Task | None) -> Task:
    """The task of a network: ``task`` where there is one, scores by ``outputs`` where these are not the default, else the
    task for networks of the model's kind.

    Raises:
        ArgumentError: both ``outputs`` and ``task``.
        ArgumentTypeError: ``task`` is something else than a task.
    """
    if task is None:
        return Scores(outputs) if outputs is not main_output else _task_by_kind(model)
    if not isinstance(task, Task):
        raise ArgumentTypeError(f"task must be a ghostify.Task, not {type(task).__name__}")
    if outputs is not main_output:
        raise ArgumentError("outputs= goes without task=, which says how outputs are compared")
    return task


def _task_by_kind(model: nn.Module) -> Task:
    """Detection for torchvision's detectors, maps for timm's backbones that give features only, else scores."""
    from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet

    from .detection import Detection
    from .detection_targets import is_detector

    if is_detector(model):
        return Detection()
    if isinstance(model, (FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureListNet)):
        return Maps()
    return Scores()
