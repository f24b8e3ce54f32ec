"""How the heads of two detectors are compared: at all anchors, and on proposals of the teacher's."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ArgumentError
from ..losses import logit_distillation
from .detection_parts import PartOutputs, has_map_head, run_box_head, run_map_head

PROPOSALS = 256  # of the teacher, for each image, that heads are compared on

SUREST = 16  # of them, those where it is surest of an object, that masks and key points are compared on

BETA = 1 / 9  # where the error of a box turns from quadratic to linear; torchvision's


def dense_head_loss(student: PartOutputs, teacher: PartOutputs, background: bool) -> Tensor:
    """How heads differ at all anchors, for each object that the teacher sees; a scalar.

    Args:
        student, teacher: outputs of their parts on the same images.
        background: whether class 0 is that nothing is there, and classes exclude each other.
    """
    student_scores, teacher_scores = (outputs.heads["classes"].float() for outputs in (student, teacher))
    if background:
        sure = 1 - teacher_scores.softmax(-1)[..., 0]
        log_p, log_q = student_scores.log_softmax(-1), teacher_scores.log_softmax(-1)
        divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    else:
        sure = teacher_scores.sigmoid().amax(-1)
        divergence = _binary_divergence(student_scores, teacher_scores).sum(-1)
    objects = sure.sum().clamp_min(1)
    student_boxes, teacher_boxes = (outputs.heads["boxes"].float() for outputs in (student, teacher))
    error = F.smooth_l1_loss(student_boxes, teacher_boxes, beta=BETA, reduction="none").sum(-1)
    loss = (divergence.sum() + (sure * error).sum()) / objects
    if "centres" in teacher.heads:
        centres = _binary_divergence(student.heads["centres"].float(), teacher.heads["centres"].float())
        loss = loss + (sure * centres[..., 0]).sum() / objects
    return loss


def proposal_loss(student: nn.Module, teacher: nn.Module, student_outputs: PartOutputs, teacher_outputs: PartOutputs) -> Tensor:
    """How classes, boxes, masks and key points differ on some of the teacher's proposals, a random choice; a scalar.

    Args:
        student, teacher: networks with proposals.
        student_outputs, teacher_outputs: of their parts on the same images; the teacher's have proposals.

    Raises:
        ArgumentError: student and teacher have different classes.
    """
    assert teacher_outputs.proposals is not None
    boxes = [p[torch.randperm(len(p))[:PROPOSALS].to(p.device)] for p in teacher_outputs.proposals]
    if not sum(map(len, boxes)):
        return torch.zeros((), device=teacher_outputs.batch.tensors.device)
    with torch.no_grad():
        teacher_scores, teacher_corrections = (x.float() for x in run_box_head(teacher, teacher_outputs, boxes))
    student_scores, student_corrections = (x.float() for x in run_box_head(student, student_outputs, boxes))
    if student_scores.shape != teacher_scores.shape:
        raise ArgumentError(
            f"student and teacher differ in their classes: {student_scores.shape[1]} against {teacher_scores.shape[1]}"
        )
    sure = teacher_scores.softmax(1)[:, 1:]
    loss = logit_distillation(student_scores, teacher_scores, 1.0) + _box_loss(student_corrections, teacher_corrections, sure)
    surest_boxes, labels = _surest(boxes, sure)
    for kind in ("mask", "keypoint"):
        if has_map_head(student, kind):
            with torch.no_grad():
                teacher_maps = run_map_head(teacher, kind, teacher_outputs, surest_boxes).float()
            student_maps = run_map_head(student, kind, student_outputs, surest_boxes).float()
            loss = loss + _map_loss(kind, student_maps, teacher_maps, labels)
    return loss


def _box_loss(student: Tensor, teacher: Tensor, sure: Tensor) -> Tensor:
    """How box corrections (n, 4 or 4 * classes) differ, weighed by the teacher's probabilities ``sure`` (n, classes less the
    background)."""
    error = F.smooth_l1_loss(student, teacher, beta=BETA, reduction="none").unflatten(1, (-1, 4)).sum(-1)
    if error.shape[1] > 1:  # boxes of each class
        error = error[:, 1:]
    return (sure * error).sum() / sure.sum().clamp_min(1)


def _surest(boxes: list[Tensor], sure: Tensor) -> tuple[list[Tensor], Tensor]:
    """The proposals of each image in which the teacher is surest of an object, and the labels of these objects (n,).

    Args:
        boxes: proposals for each image.
        sure: probabilities (all proposals, classes less the background).
    """
    counts = [len(proposals) for proposals in boxes]
    probability, classes = sure.max(1)
    indices = [part.topk(min(SUREST, len(part))).indices for part in probability.split(counts)]
    chosen = [proposals[index] for proposals, index in zip(boxes, indices, strict=True)]
    labels = torch.cat([part[index] for part, index in zip(classes.split(counts), indices, strict=True)]) + 1
    return chosen, labels


def _map_loss(kind: str, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """How masks of the labelled classes differ, or where key points are, in maps (n, classes or key points, H, W)."""
    if kind == "mask":
        rows = torch.arange(len(labels), device=labels.device)
        return _binary_divergence(student[rows, labels], teacher[rows, labels]).mean()
    return logit_distillation(student.flatten(0, 1).flatten(1), teacher.flatten(0, 1).flatten(1), 1.0)


def _binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two-way choices, from their logits."""
    p = teacher.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(student, p, reduction="none")
    return cross_entropy - F.binary_cross_entropy_with_logits(teacher, p, reduction="none")
