"""The forward pass of training: student and teacher on a batch, to losses."""

import torch
from torch import Tensor, nn

from ..common.calls import evaluation_mode
from ..errors import ArgumentError
from ..losses import feature_matching
from ..tasks.task import Inputs, Targets, Task
from .feature_places import Recorder, find_places
from .training_recipe import Recipe

WEIGHTED = {"logits", "relation", "labels"}  # what a task may name; features are matched here


class Objective(nn.Module):
    """What is differentiated, in one module, so that each process can run it by itself and average gradients.

    Args:
        student: the network whose parameters this module has.
        teacher: the original network, in evaluation mode.
        task: how student and teacher are compared.
        recipe: weights of the losses.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, task: Task, recipe: Recipe):
        super().__init__()
        self.student = student
        self._teachers = (teacher,)  # a tuple keeps it from being a submodule: no gradients, no modes
        self.task, self.recipe = task, recipe
        self.places: list[str] = []
        self.recorders: list[Recorder] = []  # of the student and of the teacher, once training begins

    @property
    def teacher(self) -> nn.Module:
        """The original network."""
        return self._teachers[0]

    def begin(self, images: Inputs) -> list[str]:
        """Find out, by a few images, whether models and data fit each other and where maps can be compared; listen there
        until :meth:`close`.

        Returns:
            Notes for the report.

        Raises:
            ArgumentError: they do not fit.
        """
        recipe = self.recipe
        with torch.no_grad(), evaluation_mode(self.student):
            self.task.begin(self.student, self.teacher, images)
            if recipe.features:
                self.places = find_places(self.student, self.teacher, lambda model: self.task.run(model, images))
        self.recorders = [Recorder(model, self.places) for model in (self.student, self.teacher)]
        if not recipe.features or self.places:
            return []
        if not (recipe.logits or recipe.relation or recipe.labels):
            raise ArgumentError("the recipe matches features alone, and the student has none like the teacher's")
        return ["no features were matched: the student has no places with maps like the teacher's"]

    def forward(self, images: Inputs, targets: Targets) -> dict[str, Tensor]:
        """Compute each loss by its name, and under ``loss`` their weighted sum.

        Raises:
            ArgumentError: the task returns other losses than a recipe weighs, none at all, or runs a network several times.
        """
        for recorder in self.recorders:
            recorder.listen()
        losses = self.task.losses(self.student, self.teacher, images, targets, self.recipe)
        _check_names(losses)
        student_maps, teacher_maps = (self._maps(recorder) for recorder in self.recorders)
        if not losses and not (self.places and student_maps):
            raise ArgumentError("the task's losses() returned none, and there are no features to match")
        if len(student_maps) != len(teacher_maps) or (self.places and not student_maps):
            raise ArgumentError(
                "features can be matched where the task's losses() runs student and teacher once each, as its run() does: "
                f"they passed {len(student_maps)} and {len(teacher_maps)} places; else set features to 0"
            )
        if self.places:
            losses["features"] = feature_matching(student_maps, teacher_maps, together=True)
        weighted = [getattr(self.recipe, name) * value for name, value in losses.items()]
        return {"loss": torch.stack(weighted).sum(), **losses}

    def close(self) -> None:
        """Stop listening to student and teacher."""
        for recorder in self.recorders:
            recorder.close()

    def _maps(self, recorder: Recorder) -> list[Tensor]:
        """The maps that a network gave since the recorder listens, in the order of places."""
        outputs = recorder.take()
        return [output.maps for name in self.places for output in outputs.get(name, [])]


def _check_names(losses: object) -> None:
    """Refuse losses of a task that a recipe has no weights for."""
    if isinstance(losses, dict) and losses.keys() <= WEIGHTED:
        return
    returned = ", ".join(map(str, losses)) if isinstance(losses, dict) else type(losses).__name__
    raise ArgumentError(f"the task's losses() must return a dict of some of {', '.join(sorted(WEIGHTED))}, not {returned}")
