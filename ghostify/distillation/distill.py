"""distill(): train a student towards its teacher, on one machine or many."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.checks import check_choice, check_has_weights, check_is_module, check_is_not_student
from ..common.copying import copy_swapped
from ..common.processes import max_over_processes, process_state
from ..common.progress import share_bar
from ..common.random_state import undisturbed
from ..common.tensors import state_of
from ..errors import ArgumentError, ArgumentTypeError, DivergedError
from ..inputs.sources import LabelledData, make_source
from ..losses import main_output
from ..students.storage import saved_recipe
from ..tasks.kinds import task_for
from ..tasks.task import Outputs, Task
from .report import RecoveryReport
from .run_folder import RunFolder
from .trainer import OnStep, Trainer
from .training_recipe import PRESETS, Recipe

VAL_BATCH_SIZE = 256  # images at a time in a validation, where val is not already in batches


def distill(
    student: nn.Module,
    teacher: nn.Module,
    train: LabelledData,
    *,
    val: LabelledData | None = None,
    recipe: Recipe | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    outputs: Outputs = main_output,
    task: Task | None = None,
    workers: int | None = None,
    broken: str = "skip",
    checkpoint_seconds: float = 300,
    progress: bool = False,
) -> RecoveryReport:
    """Train the student to do what its teacher does, in place.

    The same call runs on one CPU, one GPU, or, under ``accelerate launch`` or ``torchrun``, on many GPUs and machines:
    each process then takes its part of every batch, and batch norms see the batches of all, so that the number of processes
    changes the speed and not the result.

    Args:
        student: what :func:`ghostify.convert` made, best after :func:`ghostify.calibrate`; any other network of the same
            outputs works too, without matched features. It is changed only once training is over: after an error or an
            interruption it is as it was, but for a loss that is not finite (see Raises).
        teacher: the original network; it is not changed.
        train: a DataLoader or other iterable of batches, with labels or without; a tensor or array of images
            (N, C, H, W), or a pair of them and labels (N,); a folder of pictures, one folder for each class; or a timm
            data set such as ``"torch/cifar10"``.
        val: the same, to choose the best weights by: after each epoch top-1 with labels, agreement with the teacher without.
        recipe: budget, losses and optimizer; None for ``Recipe.preset("short")``.
        out: folder for checkpoint.safetensors, student.safetensors, history.csv, curve.png and recipe.yaml, and for
            TensorBoard's files where it is installed.
        resume: go on from the checkpoint in ``out``, to the result that the run would have had without a break; where
            there is none, start. The other arguments must be as they were.
        outputs: from what the model returns to the scores to match, a list of tensors (N, classes, ...); the default takes
            the main output (:func:`ghostify.losses.main_output`).
        task: how networks of a kind of their own are compared and judged (:class:`ghostify.Task`); None for the one that
            fits the network.
        workers: processes that read a folder's pictures; None for one a core, eight at most.
        broken: what to do with a picture of ``train`` that can't be read: ``"skip"`` takes the next one, and the report
            counts them; ``"fail"`` raises. One of ``val`` always does.
        checkpoint_seconds: time between checkpoints within an epoch; there is one after each epoch as well.
        progress: show a progress bar with speed and time left.

    Returns:
        A :class:`ghostify.RecoveryReport` with losses, validation and speed of each epoch.

    Raises:
        ArgumentError, ArgumentTypeError: data, a setting or a checkpoint that can't be used; the message says why.
        DivergedError: a loss was not finite; the student then has the weights of the end of the epoch before.

    Example:
        >>> ghostify.distill(student, teacher, loader, recipe=ghostify.Recipe.preset("short", steps=1000), out="run")
    """
    recipe = Recipe.preset("short") if recipe is None else recipe
    folder = None if out is None else RunFolder(Path(out))
    _check_networks(student, teacher)
    _check_settings(recipe, checkpoint_seconds)
    _check_folder(folder, resume, student)
    check_choice("broken", broken, ("skip", "fail"))
    train_source = make_source(train, teacher, recipe.batch_size, training=True, workers=workers, broken=broken)
    val_source = None
    if val is not None:
        val_source = make_source(val, teacher, VAL_BATCH_SIZE, training=False, name="val", workers=workers, broken="fail")
    with undisturbed(), torch.inference_mode(False), torch.enable_grad(), _bar(progress) as on_step:
        trainer = Trainer(
            student=copy_swapped(student, {}),
            teacher=copy_swapped(teacher, {}),
            train=train_source,
            val=val_source,
            recipe=recipe,
            task=task_for(student, outputs, task),
            folder=folder,
            checkpoint_seconds=float(checkpoint_seconds),
            on_step=on_step,
        )
        if folder is not None and trainer.accelerator.is_main_process:
            folder.begin(recipe)
        try:
            report = trainer.run(resume)
        except DivergedError:
            _load(student, trainer.good)
            raise
    _load(student, trainer.result())
    if folder is not None and trainer.accelerator.is_main_process:
        folder.finish(student, report)
    return report


def _check_networks(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse what is no network with weights, and a student as its own teacher."""
    for name, model in (("student", student), ("teacher", teacher)):
        check_is_module(name, model)
        check_has_weights(name, model)
    check_is_not_student(teacher, student)


def _check_settings(recipe: object, checkpoint_seconds: object) -> None:
    """Refuse what is no recipe, and what is no time."""
    if not isinstance(recipe, Recipe):
        hint = f": Recipe.preset({recipe!r})" if recipe in PRESETS else ""
        raise ArgumentTypeError(f"recipe must be a ghostify.Recipe, not {type(recipe).__name__}{hint}")
    if isinstance(checkpoint_seconds, bool) or not isinstance(checkpoint_seconds, (int, float)) or checkpoint_seconds < 0:
        raise ArgumentError(f"checkpoint_seconds must be a number of at least 0, not {checkpoint_seconds!r}")


def _check_folder(folder: RunFolder | None, resume: bool, student: nn.Module) -> None:
    """Refuse to write over a run, to go on with one that has no folder, and a student that no folder could take."""
    if folder is None:
        if resume:
            raise ArgumentError("resume=True needs out=, the folder of the run to go on with")
        return
    if folder.path.exists() and not folder.path.is_dir():
        raise ArgumentError(f"out {str(folder.path)!r} is a file, not a folder")
    saved_recipe(student)
    holds_run = process_state().is_main_process and folder.checkpoint.exists()
    if max_over_processes(int(holds_run)) and not resume:  # the main process decides
        raise ArgumentError(f"out {str(folder.path)!r} holds a run already: resume=True goes on with it, or choose another")


@torch.no_grad()
def _load(student: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into the tensors of the student, which stay the same objects."""
    for name, tensor in state_of(student).items():
        tensor.copy_(weights[name])


@contextmanager
def _bar(progress: bool) -> Iterator[OnStep]:
    """A progress bar in the main process."""
    with share_bar("recovering", progress and process_state().is_main_process) as update:
        yield lambda part, losses, speed: update(part, f"loss {losses['loss']:.4f}, {speed:,.0f} images/s")
