"""evaluate(): how good a network is, by labels or beside its teacher."""

from typing import Any

from torch import nn

from ..common.checks import check_is_module, whole_number
from ..inputs.sources import LabelledData, make_source
from ..losses import main_output
from .kinds import task_for
from .task import Outputs, Task


def evaluate(
    model: nn.Module,
    data: LabelledData,
    *,
    teacher: nn.Module | None = None,
    batch_size: int = 256,
    outputs: Outputs = main_output,
    task: Task | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Any:
    """Measure how good a network is, in evaluation mode.

    Under ``torchrun`` or ``accelerate launch`` each process takes its batches of a DataLoader and all get the same result;
    no image is counted twice.

    Args:
        model: the network to judge, on any device; images are moved there.
        data: a DataLoader or other iterable of batches (images, labels); a tensor or array of images, or a pair of them and
            labels; a folder of pictures, one folder for each class; or a timm name such as ``"torch/cifar10"``. Labels may
            be missing where there is a teacher.
        teacher: the original network, to count where both name the same class; None for none.
        batch_size: images at a time where ``data`` is not in batches.
        outputs: from what the model returns to the scores (N, classes, ...) in a list; see
            :func:`ghostify.losses.main_output`.
        task: how networks of a kind of their own are judged (:class:`ghostify.Task`).
        workers: processes that read a folder's pictures.
        progress: show a progress bar.

    Returns:
        A :class:`ghostify.Evaluation` of a network of class scores; else what the task's ``evaluate`` returns.

    Raises:
        ArgumentError, ArgumentTypeError: no image, or nothing to compare with, or a label beyond the model's classes.

    Example:
        >>> print(ghostify.evaluate(student, loader, teacher=teacher))
    """
    check_is_module("model", model)
    if teacher is not None:
        check_is_module("teacher", teacher)
    batch_size = whole_number("batch_size", batch_size, 1)
    source = make_source(data, model, batch_size, training=False, name="data", workers=workers, broken="fail", once=True)
    return task_for(model, outputs, task).evaluate(model, teacher, source, progress)
