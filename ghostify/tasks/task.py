"""Task: how networks of one kind are compared with their teachers and judged."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from ..common.calls import run_checked
from ..errors import ArgumentError
from ..inputs.batches import split_batch
from ..inputs.sources import Source

Inputs = Any  # what a task's split() makes of a batch: a tensor, a list of them, or what else its networks take in slices

Targets = Any  # what belongs to the images, as the task's losses() reads it; None where there is nothing

Outputs = Callable[[Any], Sequence[Tensor]]  # from what a network returns to scores (N, classes, ...)


Weights = Any  # :class:`LossWeights`; a user's task may name :class:`ghostify.Recipe`, which is one


class Judgement(Protocol):
    """What an evaluation returns."""

    def scores(self) -> dict[str, float]:
        """Shares from 0 to 1 by name; the first is what the best weights are chosen by."""


class LossWeights(Protocol):
    """The weights of the losses, 0 for a loss that is not wanted, and the temperature of ``logits``. A
    :class:`ghostify.Recipe` is one."""

    @property
    def logits(self) -> float: ...

    @property
    def relation(self) -> float: ...

    @property
    def labels(self) -> float: ...

    @property
    def temperature(self) -> float: ...


class Task:
    """How networks of one kind are compared with their teachers and judged. :func:`ghostify.distill` and
    :func:`ghostify.evaluate` take one; a subclass with :meth:`losses` and :meth:`evaluate` brings a kind of its own to them.
    """

    def split(self, item: Any, model: nn.Module, name: str = "train") -> tuple[Inputs, Targets]:
        """Images, checked and on the model's device, and what belongs to them, None where there is nothing.

        Args:
            item: a batch as the loader gives it.
            model: the network that the images are for.
            name: of the argument that it came from, for errors.
        """
        return split_batch(item, model, name)

    def begin(self, student: nn.Module, teacher: nn.Module, images: Inputs) -> None:
        """Look at a few images, both networks in evaluation mode, before training.

        Raises:
            ArgumentError: networks and images do not fit each other.
        """
        for model in (student, teacher):
            run_checked(model, (images,), {})

    def check(self, targets: Targets) -> Targets:
        """What belongs to the images, ready for :meth:`losses`, where the recipe weighs labels.

        Raises:
            ArgumentError: these targets can't be learned from.
        """
        return targets

    def run(self, model: nn.Module, images: Inputs) -> None:
        """The part of the forward pass in which maps of student and teacher are compared. It runs once in each of
        :meth:`losses`."""
        model(images)

    def losses(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images: Inputs,
        targets: Targets,
        recipe: Weights,
    ) -> dict[str, Tensor]:
        """Scalars by the name of their weight in the recipe: ``logits``, ``relation``, ``labels``.

        Args:
            student: in training mode.
            teacher: in evaluation mode; no gradient is wanted of it.
            images: what :meth:`split` gave.
            targets: what :meth:`check` gave; None where the recipe does not weigh labels.
            recipe: which losses count.

        Raises:
            ArgumentError: the task has no losses.
        """
        raise ArgumentError(f"task {type(self).__name__} can't be trained on: it has no losses()")

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> Judgement:
        """Judge a network on all of the batches, against labels, its teacher, or both.

        Args:
            model: the network to judge; this method puts it in evaluation mode.
            teacher: the original network; None where there is none.
            source: has all batches in ``source.batches``.
            progress: show a progress bar.

        Raises:
            ArgumentError: the task can't judge.
        """
        raise ArgumentError(f"task {type(self).__name__} can't judge a network: it has no evaluate()")
