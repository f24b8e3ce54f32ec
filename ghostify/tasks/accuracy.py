"""How often a model is right, and how often it agrees with its teacher; exact under many processes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import evaluation_mode, run_checked
from ..common.processes import max_over_processes, sum_over_processes
from ..common.progress import over_batches
from ..errors import ArgumentError
from ..inputs.sources import Source, shared_out, split_batch
from ..losses import IGNORED


@dataclass(frozen=True)
class Evaluation:
    """Shares from 0 to 1; None where there were no labels, no teacher, or for ``top5`` no more than five classes.

    Attributes:
        images: how many.
        top1, top5: right among the first, the first five; of positions where scores have positions.
        agreement: the same first class as the teacher's.
        per_class: share of each class's images that is right; NaN for a class without images.
        mean_iou: intersection over union of what is labelled and what is predicted as a class, over all images together,
            averaged over the classes that there are; None but for segmentation.
        iou_per_class: NaN for a class that is neither labelled nor predicted.
    """

    images: int
    top1: float | None
    top5: float | None
    agreement: float | None
    per_class: tuple[float, ...] | None
    mean_iou: float | None = None
    iou_per_class: tuple[float, ...] | None = None

    def scores(self) -> dict[str, float]:
        """What there is of mean_iou, top1 and agreement."""
        named = {"mean_iou": self.mean_iou, "top1": self.top1, "agreement": self.agreement}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        named = (
            ("mean IoU", self.mean_iou), ("top-1", self.top1), ("top-5", self.top5), ("agrees with the teacher", self.agreement)
        )  # fmt: skip
        return ", ".join([f"{self.images} images"] + [f"{name} {value:.2%}" for name, value in named if value is not None])


@torch.no_grad()
def evaluate_source(
    model: nn.Module,
    teacher: nn.Module | None,
    source: Source,
    outputs: Callable[[Any], Sequence[Tensor]],
    progress: bool = False,
) -> Evaluation:
    """:func:`ghostify.evaluate` of a network of class scores."""
    counts: _Counts | None = None
    with evaluation_mode(model), evaluation_mode(teacher if teacher is not None else model):
        for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
            images, labels = split_batch(item, model, source.name)
            scores = _rows(outputs(run_checked(model, (images,), {}))[0])
            goals = None if teacher is None else _rows(outputs(run_checked(teacher, (images,), {}))[0])
            if goals is not None and goals.shape != scores.shape:
                raise ArgumentError(
                    f"model and teacher differ in their outputs: {tuple(scores.shape)} scores against {tuple(goals.shape)}"
                )
            theirs = None if goals is None else goals.argmax(1)
            counts = counts or _Counts(scores.shape[1], scores.device, source.name)
            counts.add(len(images), scores, None if labels is None else labels.to(scores.device), theirs)
    return _finish(_summed(counts, source.name))


class _Counts:
    """Sums over images, in one vector so that processes can add theirs: images, positions with a label, right, among five,
    positions, agreeing, images whose scores have positions; then for each class how many there are, are right, are
    predicted."""

    def __init__(self, classes: int, device: torch.device, name: str):
        self.name = name
        self.sums = torch.zeros(7, dtype=torch.float64, device=device)
        self.by_class = torch.zeros(3, classes, dtype=torch.float64, device=device)

    def add(self, images: int, scores: Tensor, labels: Tensor | None, theirs: Tensor | None) -> None:
        classes = scores.shape[1]
        given = scores.argmax(1)
        self.sums[0] += images
        self.sums[6] += images * (len(scores) != images)
        if labels is not None:
            labels = labels.flatten()
            if labels.is_floating_point():
                raise ArgumentError(f"{self.name} has labels of type {labels.dtype}: give whole numbers, the classes")
            if len(labels) != len(scores):
                raise ArgumentError(f"{self.name} has {len(labels)} labels for {len(scores)} scores")
            valid = torch.ones_like(labels, dtype=torch.bool) if len(scores) == images else labels != IGNORED
            for worst in labels[valid].aminmax() if bool(valid.any()) else ():
                if not 0 <= int(worst) < classes:
                    raise ArgumentError(f"{self.name} has label {int(worst)}, the model {classes} classes")
            right = valid & (given == labels)
            among = scores.topk(min(5, classes), 1).indices == labels[:, None]
            self.sums[1] += valid.sum()
            self.sums[2] += right.sum()
            self.sums[3] += (among.any(1) & valid).sum()
            self.by_class[0] += torch.bincount(labels[valid], minlength=classes)
            self.by_class[1] += torch.bincount(labels[right], minlength=classes)
            self.by_class[2] += torch.bincount(given[valid], minlength=classes)
        if theirs is not None:
            self.sums[4] += len(given)
            self.sums[5] += (given == theirs).sum()


def _rows(scores: Tensor) -> Tensor:
    """(N, classes, ...) to (N * positions, classes)."""
    return scores.float().movedim(1, -1).flatten(0, -2)


def _summed(counts: _Counts | None, name: str) -> _Counts:
    classes = max_over_processes(counts.by_class.shape[1] if counts else 0)
    counts = counts or _Counts(classes, torch.device("cpu"), name)  # this process may have had no batch
    counts.sums, counts.by_class = sum_over_processes(counts.sums), sum_over_processes(counts.by_class)
    if not counts.sums[0]:
        raise ArgumentError(f"{name} holds no image")
    return counts


def _finish(counts: _Counts) -> Evaluation:
    images, labelled, right, among, compared, agreeing, dense = counts.sums.tolist()
    if not labelled and not compared:
        raise ArgumentError(f"{counts.name} has no labels: give labels, or a teacher to compare with")
    there, hits, named = counts.by_class
    iou = hits / (there + named - hits)  # NaN where there is nothing
    classes = len(there)
    return Evaluation(
        int(images),
        right / labelled if labelled else None,
        among / labelled if labelled and classes > 5 else None,
        agreeing / compared if compared else None,
        tuple((hits / there).tolist()) if labelled else None,
        float(iou.nanmean()) if labelled and dense else None,
        tuple(iou.tolist()) if labelled and dense else None,
    )
