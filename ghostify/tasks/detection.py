"""torchvision's detectors in training and evaluation: Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS, SSD."""

import torch
from torch import Tensor, nn

from ..common.calls import evaluation_mode, run_checked
from ..common.progress import over_batches
from ..errors import ArgumentError
from ..inputs.batches import first_images, placed
from ..inputs.sharing import shared_out
from ..inputs.sources import Source
from .detection_losses import dense_head_loss, proposal_loss
from .detection_parts import run_parts, transformed, watched_parts
from .detection_precision import DetectionEvaluation, DetectionMatches
from .detection_targets import Target, checked_targets, scores_background
from .task import LossWeights, Task


class Detection(Task):
    """torchvision's detectors.

    The same images at the same scale go through both networks.

    - ``logits`` compares what heads say. Of networks with proposals: objectness and boxes of the proposal network everywhere;
      classes and boxes, masks and key points on proposals of the teacher's, since the student's own lie elsewhere. Of the
      others: classes and boxes at all anchors. Boxes count by how sure the teacher is that there is an object.
    - ``features`` compares maps in the backbone, the pyramid and heads that run on all of it.
    - ``labels`` weighs the detector's own losses, with targets as torchvision takes them: for each image a dict of ``boxes``
      (n, 4), x1, y1, x2, y2 in pixels, ``labels`` (n,), and ``masks`` (n, H, W) and ``keypoints`` (n, k, 3) where the
      network has such heads. Boxes that reach over the edge of their image are cut there.
    """

    def split(self, item: object, model: nn.Module, name: str = "train") -> tuple[list[Tensor], list[Target] | None]:
        """Images (C, H, W) in a list, and checked targets; see :meth:`ghostify.Task.split`."""
        images = list(placed(first_images(item), model))
        targets = None
        if isinstance(item, dict):
            targets = next((item[key] for key in ("targets", "labels") if key in item), None)
        elif isinstance(item, (tuple, list)) and len(item) == 2 and not isinstance(item[1], Tensor):
            targets = item[1]
        return images, None if targets is None else checked_targets(targets, images, model, name)

    def begin(self, student: nn.Module, teacher: nn.Module, images: list[Tensor]) -> None:
        """Look at a few images before training.

        Raises:
            ArgumentError: a network does not take these images, or their heads give outputs of different shapes.
        """
        super().begin(student, teacher, images)
        batch = transformed(student, images)
        student_shapes, teacher_shapes = (
            [tuple(output.shape[1:]) for output in run_parts(model, batch).heads.values()] for model in (student, teacher)
        )
        if student_shapes != teacher_shapes:
            listed = [", ".join(map(str, shapes)) for shapes in (student_shapes, teacher_shapes)]
            raise ArgumentError(f"student and teacher differ in what their heads give: {listed[0]} against {listed[1]}")

    def check(self, targets: list[Target] | None) -> list[Target]:
        """The targets, which :meth:`split` has checked.

        Raises:
            ArgumentError: there are none.
        """
        if targets is None:
            raise ArgumentError("the recipe weighs labels, but train has no targets")
        return targets

    def run(self, model: nn.Module, images: list[Tensor]) -> None:
        """Run the parts that work on the whole image."""
        run_parts(model, transformed(model, images))

    def losses(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images: list[Tensor],
        targets: list[Target] | None,
        recipe: LossWeights,
    ) -> dict[str, Tensor]:
        """``labels``, where there are targets, and ``logits``, where the recipe weighs it; scalars.

        Raises:
            ArgumentError: the recipe weighs ``relation``, or student and teacher have different classes.
        """
        if recipe.relation:
            raise ArgumentError("relation compares the classes of whole images, and a detector has none: set it to 0")
        losses: dict[str, Tensor] = {}
        if targets is None:
            student_outputs = run_parts(student, transformed(student, images))
        else:
            with watched_parts(student) as outputs:
                detector_losses = student(images, targets)
            student_outputs = outputs()
            losses["labels"] = torch.stack([value.float() for value in detector_losses.values()]).sum()
        with torch.no_grad():
            teacher_outputs = run_parts(teacher, student_outputs.batch)
        if recipe.logits:
            losses["logits"] = dense_head_loss(student_outputs, teacher_outputs, scores_background(student))
            if teacher_outputs.proposals is not None:
                losses["logits"] = losses["logits"] + proposal_loss(student, teacher, student_outputs, teacher_outputs)
        return losses

    def evaluate(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        source: Source,
        progress: bool = False,
    ) -> DetectionEvaluation:
        """Mean average precision by targets, agreement with the teacher, or both.

        Raises:
            ArgumentError, ArgumentTypeError: no image, nothing to compare with, or targets that do not fit.
        """
        matches = DetectionMatches(model, source.name)
        with torch.no_grad(), evaluation_mode(model), evaluation_mode(teacher if teacher is not None else model):
            for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
                images, targets = self.split(item, model, source.name)
                teacher_detections = None if teacher is None else run_checked(teacher, (images,), {})
                matches.add(run_checked(model, (images,), {}), targets, teacher_detections)
        return matches.finish()
