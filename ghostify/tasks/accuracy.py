"""How often a model is right, and how often it agrees with its teacher; exact under many processes."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor, nn

from ..common.calls import evaluation_mode, run_checked
from ..common.processes import max_over_processes, sum_over_processes
from ..common.progress import over_batches
from ..errors import ArgumentError
from ..inputs.batches import split_batch
from ..inputs.sharing import shared_out
from ..inputs.sources import Source
from ..losses import IGNORED
from .task import Outputs


@dataclass(frozen=True)
class Evaluation:
    """Shares from 0 to 1; None where there were no labels, no teacher, or for ``top5`` no more than five classes.

    Attributes:
        images: number of images.
        top1, top5: share of images whose label is the first class, among the first five; of positions where scores have
            positions.
        agreement: share of images whose first class is the teacher's, too.
        per_class: share of each class's images that is right; NaN for a class without images.
        mean_iou: intersection over union of what is labelled and what is predicted as a class, over all images together,
            averaged over the classes that there are; None but for segmentation.
        iou_per_class: intersection over union of each class; NaN for a class that is neither labelled nor predicted.
    """

    images: int
    top1: float | None
    top5: float | None
    agreement: float | None
    per_class: tuple[float, ...] | None
    mean_iou: float | None = None
    iou_per_class: tuple[float, ...] | None = None

    def scores(self) -> dict[str, float]:
        """Those of mean_iou, top1 and agreement that are not None."""
        named = {"mean_iou": self.mean_iou, "top1": self.top1, "agreement": self.agreement}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        shares = (
            ("mean IoU", self.mean_iou),
            ("top-1", self.top1),
            ("top-5", self.top5),
            ("agrees with the teacher", self.agreement),
        )
        texts = [f"{name} {value:.2%}" for name, value in shares if value is not None]
        return ", ".join([f"{self.images} images", *texts])


@torch.no_grad()
def evaluate_source(
    model: nn.Module,
    teacher: nn.Module | None,
    source: Source,
    outputs: Outputs,
    progress: bool = False,
) -> Evaluation:
    """:func:`ghostify.evaluate` of a network of class scores.

    Args:
        model: the network to judge.
        teacher: the network to compare it with; None for none.
        source: batches of images, with labels or without.
        outputs: from what a network returns to scores (N, classes, ...), the first of which count.
        progress: show a progress bar.

    Raises:
        ArgumentError: no image, nothing to compare with, or images or labels that do not fit the model.
    """
    counts: _Counts | None = None
    with evaluation_mode(model), evaluation_mode(teacher if teacher is not None else model):
        for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
            images, labels = split_batch(item, model, source.name)
            scores = _rows(outputs(run_checked(model, (images,), {}))[0])
            teacher_classes = None
            if teacher is not None:
                teacher_scores = _rows(outputs(run_checked(teacher, (images,), {}))[0])
                if teacher_scores.shape != scores.shape:
                    shapes = f"{tuple(scores.shape)} scores against {tuple(teacher_scores.shape)}"
                    raise ArgumentError(f"model and teacher differ in their outputs: {shapes}")
                teacher_classes = teacher_scores.argmax(1)
            counts = counts or _Counts(scores.shape[1], scores.device, source.name)
            counts.add(len(images), scores, labels, teacher_classes)
    return _evaluation(_over_processes(counts, source.name))


def _rows(scores: Tensor) -> Tensor:
    """Scores (N, classes, ...) as (N * positions, classes)."""
    return scores.float().movedim(1, -1).flatten(0, -2)


def check_labels(labels: Tensor, scores: Tensor, name: str, dense: bool) -> Tensor:
    """(positions,) which positions have a label that counts.

    Args:
        labels: (positions,) class indices.
        scores: (positions, classes).
        name: of the argument that they came from, for errors.
        dense: whether some may be labelled 255, which do not count.

    Raises:
        ArgumentError: labels that do not fit the scores.
    """
    classes = scores.shape[1]
    if labels.is_floating_point():
        raise ArgumentError(f"{name} has labels of type {labels.dtype}: give whole numbers, the classes")
    if len(labels) != len(scores):
        raise ArgumentError(f"{name} has {len(labels)} labels for {len(scores)} scores")
    valid = labels != IGNORED if dense else torch.ones_like(labels, dtype=torch.bool)
    for extreme in labels[valid].aminmax() if bool(valid.any()) else ():
        if not 0 <= int(extreme) < classes:
            raise ArgumentError(f"{name} has label {int(extreme)}, the model {classes} classes")
    return valid


class _Sum(IntEnum):
    """What is counted over all classes, and where it stands in the vector of sums."""

    IMAGES = 0
    LABELLED = 1  # positions with a label
    RIGHT = 2  # of them, those whose class is right
    AMONG_FIVE = 3  # those whose label is among the first five classes
    COMPARED = 4  # positions that the teacher classified, too
    AGREEING = 5  # of them, those of the same class
    DENSE_IMAGES = 6  # images whose scores have positions


class _ClassSum(IntEnum):
    """What is counted for each class, and in which row it stands."""

    LABELLED = 0
    RIGHT = 1
    PREDICTED = 2


class _Counts:
    """Sums over positions (of a classifier, images), in two tensors so that processes can add theirs.

    Args:
        classes: number of the model's classes.
        device: where to count.
        name: of the argument that images came from, for errors.
    """

    def __init__(self, classes: int, device: torch.device, name: str):
        self.name = name
        self.sums = torch.zeros(len(_Sum), dtype=torch.float64, device=device)
        self.by_class = torch.zeros(len(_ClassSum), classes, dtype=torch.float64, device=device)

    def add(self, images: int, scores: Tensor, labels: Tensor | None, teacher_classes: Tensor | None) -> None:
        """Add a batch.

        Args:
            images: number of images.
            scores: (positions, classes).
            labels: class indices, one for each position in any shape; None where there are none.
            teacher_classes: (positions,); None where there is no teacher.

        Raises:
            ArgumentError: labels that do not fit the scores.
        """
        predicted = scores.argmax(1)
        self.sums[_Sum.IMAGES] += images
        self.sums[_Sum.DENSE_IMAGES] += images * (len(scores) != images)
        if labels is not None:
            self._add_labelled(labels.to(scores.device).flatten(), scores, predicted, dense=len(scores) != images)
        if teacher_classes is not None:
            self.sums[_Sum.COMPARED] += len(predicted)
            self.sums[_Sum.AGREEING] += (predicted == teacher_classes).sum()

    def _add_labelled(self, labels: Tensor, scores: Tensor, predicted: Tensor, dense: bool) -> None:
        """Add positions with labels (positions,); ``dense`` says that some may be labelled 255, which do not count."""
        classes = scores.shape[1]
        valid = check_labels(labels, scores, self.name, dense)
        right = valid & (predicted == labels)
        among_five = scores.topk(min(5, classes), 1).indices == labels[:, None]
        self.sums[_Sum.LABELLED] += valid.sum()
        self.sums[_Sum.RIGHT] += right.sum()
        self.sums[_Sum.AMONG_FIVE] += (among_five.any(1) & valid).sum()
        self.by_class[_ClassSum.LABELLED] += torch.bincount(labels[valid], minlength=classes)
        self.by_class[_ClassSum.RIGHT] += torch.bincount(labels[right], minlength=classes)
        self.by_class[_ClassSum.PREDICTED] += torch.bincount(predicted[valid], minlength=classes)


def _over_processes(counts: _Counts | None, name: str) -> _Counts:
    """The counts of all processes together; None for a process that had no batch.

    Raises:
        ArgumentError: there is no image.
    """
    classes = max_over_processes(counts.by_class.shape[1] if counts else 0)
    counts = counts or _Counts(classes, torch.device("cpu"), name)
    counts.sums, counts.by_class = sum_over_processes(counts.sums), sum_over_processes(counts.by_class)
    if not counts.sums[_Sum.IMAGES]:
        raise ArgumentError(f"{name} holds no image")
    return counts


def _evaluation(counts: _Counts) -> Evaluation:
    """Shares from counts.

    Raises:
        ArgumentError: there was nothing to compare with.
    """
    images, labelled, right, among_five, compared, agreeing, dense_images = counts.sums.tolist()
    if not labelled and not compared:
        raise ArgumentError(f"{counts.name} has no labels: give labels, or a teacher to compare with")
    labelled_of, right_of, predicted_of = counts.by_class
    iou = right_of / (labelled_of + predicted_of - right_of)  # NaN for a class that is nowhere
    is_segmentation = labelled and dense_images
    return Evaluation(
        images=int(images),
        top1=right / labelled if labelled else None,
        top5=among_five / labelled if labelled and len(iou) > 5 else None,
        agreement=agreeing / compared if compared else None,
        per_class=tuple((right_of / labelled_of).tolist()) if labelled else None,
        mean_iou=float(iou.nanmean()) if is_segmentation else None,
        iou_per_class=tuple(iou.tolist()) if is_segmentation else None,
    )
