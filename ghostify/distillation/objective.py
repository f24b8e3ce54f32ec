"""The forward pass of training: student and teacher on a batch, to losses."""

from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import evaluation_mode
from ..errors import ArgumentError
from ..losses import feature_matching
from ..tasks.task import Task
from .feature_places import Recorder, find_places
from .recipe import Recipe

WEIGHTED = {"logits", "relation", "labels"}  # what a task may name; features are matched here


class Objective(nn.Module):
    """What is differentiated, in one module, so that each process can run it by itself and average gradients.

    Args:
        student: the one whose parameters this module has.
        teacher: in evaluation mode.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, task: Task, recipe: Recipe):
        super().__init__()
        self.student = student
        self.unlearned = (teacher,)  # not a submodule: no gradients, no modes
        self.task, self.recipe = task, recipe
        self.places: list[str] = []
        self.recorders: list[Recorder] = []

    def begin(self, images: Any) -> list[str]:
        """Find out, by a few images, whether models and data fit each other and where maps can be compared; listen there
        until :meth:`close`.

        Returns:
            What should be known of it.

        Raises:
            ArgumentError: they do not fit.
        """
        (teacher,), recipe = self.unlearned, self.recipe
        with torch.no_grad(), evaluation_mode(self.student):
            self.task.begin(self.student, teacher, images)
            if recipe.features:
                self.places = find_places(self.student, teacher, lambda model: self.task.run(model, images))
        self.recorders = [Recorder(model, self.places) for model in (self.student, teacher)]
        if not recipe.features or self.places:
            return []
        if not (recipe.logits or recipe.relation or recipe.labels):
            raise ArgumentError("the recipe matches features alone, and the student has none like the teacher's")
        return ["no features were matched: the student has no places with maps like the teacher's"]

    def forward(self, images: Any, targets: Any) -> dict[str, Tensor]:
        """Each loss by its name, and under ``loss`` their weighted sum."""
        for recorder in self.recorders:
            recorder.listen()
        losses = self.task.losses(self.student, *self.unlearned, images, targets, self.recipe)
        if not isinstance(losses, dict) or not losses.keys() <= WEIGHTED:
            told = ", ".join(map(str, losses)) if isinstance(losses, dict) else type(losses).__name__
            raise ArgumentError(f"the task's losses() must return a dict of some of {', '.join(sorted(WEIGHTED))}, not {told}")
        mine, theirs = (
            [m.maps for name in self.places for m in seen.get(name, [])] for seen in [r.take() for r in self.recorders]
        )
        if not losses and not (self.places and mine):
            raise ArgumentError("the task's losses() returned none, and there are no features to match")
        if len(mine) != len(theirs) or (self.places and not mine):
            raise ArgumentError(
                "features can be matched where the task's losses() runs student and teacher once each, as its run() does: "
                f"they passed {len(mine)} and {len(theirs)} places; else set features to 0"
            )
        if self.places:
            losses["features"] = feature_matching(mine, theirs, together=True)
        weighted = [getattr(self.recipe, name) * value for name, value in losses.items()]
        return {"loss": torch.stack(weighted).sum(), **losses}

    def close(self) -> None:
        for recorder in self.recorders:
            recorder.close()
