"""Backbones that give feature maps and no scores: how they are compared and judged."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..common.calls import evaluation_mode, run_checked
from ..common.processes import sum_over_processes
from ..common.progress import over_batches
from ..errors import ArgumentError
from ..inputs.sharing import shared_out
from ..inputs.sources import Source
from ..losses import feature_matching
from .task import Inputs, LossWeights, Targets, Task


@dataclass(frozen=True)
class MapsEvaluation:
    """How near the maps of a backbone are to its teacher's.

    Attributes:
        images: number of images.
        explained: one less the squared error relative to the variance of the teacher's maps about their channel means; the
            average over places and batches.
    """

    images: int
    explained: float

    def scores(self) -> dict[str, float]:
        """The share ``explained``."""
        return {"explained": self.explained}

    def __str__(self) -> str:
        return f"{self.images} images, {self.explained:.2%} of the teacher's maps explained"


class Maps(Task):
    """Backbones that give maps (N, channels, ...) from several places and no scores, as timm's ``features_only`` does.

    ``logits`` weighs the difference of these maps (:func:`ghostify.losses.feature_matching`); there are no labels.
    """

    def check(self, targets: Targets) -> Targets:
        """
        Raises:
            ArgumentError: always, since there are no classes to learn.
        """
        raise ArgumentError("the recipe weighs labels, and a backbone without a head has no classes: set labels to 0")

    def losses(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images: Inputs,
        targets: Targets,
        recipe: LossWeights,
    ) -> dict[str, Tensor]:
        """``logits``, the difference of the maps, where the recipe weighs it.

        Raises:
            ArgumentError: the recipe weighs ``relation``.
        """
        if recipe.relation:
            raise ArgumentError("relation compares class scores, and a backbone without a head has none: set it to 0")
        with torch.no_grad():
            teacher_maps = tree_leaves(teacher(images))
        student_maps = tree_leaves(student(images))
        return {"logits": feature_matching(student_maps, teacher_maps, together=True)} if recipe.logits else {}

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> MapsEvaluation:
        """How near the maps are to the teacher's.

        Raises:
            ArgumentError: no teacher, no image, or images that do not fit.
        """
        if teacher is None:
            raise ArgumentError("a backbone without a head is judged beside its teacher: give teacher=")
        errors: list[tuple[int, float]] = []  # images of a batch, and their mean error
        with torch.no_grad(), evaluation_mode(model), evaluation_mode(teacher):
            for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
                images, _ = self.split(item, model, source.name)
                maps, teacher_maps = (tree_leaves(run_checked(network, (images,), {})) for network in (model, teacher))
                errors.append((len(images), float(feature_matching(maps, teacher_maps))))
        sums = torch.tensor([[n, n * error] for n, error in errors], dtype=torch.float64).reshape(-1, 2).sum(0)
        total_images, total_error = sum_over_processes(sums).tolist()
        if not total_images:
            raise ArgumentError(f"{source.name} holds no image")
        return MapsEvaluation(round(total_images), 1 - total_error / total_images)
