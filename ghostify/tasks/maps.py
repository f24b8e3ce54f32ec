"""Backbones that give feature maps and no scores."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..common.calls import evaluation_mode, run_checked
from ..common.processes import sum_over_processes
from ..common.progress import over_batches
from ..errors import ArgumentError
from ..inputs.sources import Source, shared_out
from ..losses import feature_matching
from .task import LossWeights, Task


@dataclass(frozen=True)
class MapsEvaluation:
    """How near the maps of a backbone are to its teacher's.

    Attributes:
        images: how many.
        explained: one less the squared error relative to the variance of the teacher's maps about their channel means; the
            average over places and batches.
    """

    images: int
    explained: float

    def scores(self) -> dict[str, float]:
        return {"explained": self.explained}

    def __str__(self) -> str:
        return f"{self.images} images, {self.explained:.2%} of the teacher's maps explained"


class Maps(Task):
    """Backbones that give maps (N, channels, ...) from several places and no scores, as timm's ``features_only`` does.

    ``logits`` weighs the difference of these maps (:func:`ghostify.losses.feature_matching`); there are no labels.
    """

    def check(self, targets: Any) -> Any:
        raise ArgumentError("the recipe weighs labels, and a backbone without a head has no classes: set labels to 0")

    def losses(
        self, student: nn.Module, teacher: nn.Module, images: Any, targets: Any, recipe: LossWeights
    ) -> dict[str, Tensor]:  # fmt: skip
        if recipe.relation:
            raise ArgumentError("relation compares class scores, and a backbone without a head has none: set it to 0")
        with torch.no_grad():
            goals = tree_leaves(teacher(images))
        given = tree_leaves(student(images))
        return {"logits": feature_matching(given, goals, together=True)} if recipe.logits else {}

    def evaluate(self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False) -> MapsEvaluation:
        if teacher is None:
            raise ArgumentError("a backbone without a head is judged beside its teacher: give teacher=")
        found: list[tuple[int, float]] = []
        with torch.no_grad(), evaluation_mode(model), evaluation_mode(teacher):
            for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
                images, _ = self.split(item, model, source.name)
                given, goals = (tree_leaves(run_checked(network, (images,), {})) for network in (model, teacher))
                found.append((len(images), float(feature_matching(given, goals))))
        sums = torch.tensor([[n, n * error] for n, error in found], dtype=torch.float64).reshape(-1, 2).sum(0)
        total, off = sum_over_processes(sums).tolist()
        if not total:
            raise ArgumentError(f"{source.name} holds no image")
        return MapsEvaluation(round(total), 1 - off / total)
