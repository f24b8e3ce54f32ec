"""Losses of distillation: by the teacher's scores, by how they relate, by the maps at its sites, by labels.

Each takes the outputs of student and teacher, or scores and labels, and returns a scalar, the mean over images, in float32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255  # the label of positions that segmentation data sets leave out


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence of softened class scores, times the squared temperature, so that its gradient keeps its
    size (Hinton et al., Distilling the knowledge in a neural network, 2015).

    Args:
        student, teacher: scores (N, classes, ...); positions behind the classes are averaged over.
        temperature: by which scores are divided.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1).mean() * temperature**2


def relation_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """One less the correlation of class probabilities, within each image and, for each class, across the images of a batch
    (DIST: Huang et al., Knowledge distillation from a stronger teacher, NeurIPS 2022).

    Args:
        student, teacher: scores (N, classes, ...). Under several processes the batch is that of all of them.
        temperature: by which scores are divided.
    """
    p, q = (_gathered((scores.float() / temperature).softmax(1)) for scores in (student, teacher))
    p, q = (x.movedim(1, -1).flatten(0, -2) for x in (p, q))
    return _one_less_correlation(p, q) + (_one_less_correlation(p.T, q.T) if len(p) > 1 else 0)


def _one_less_correlation(p: Tensor, q: Tensor) -> Tensor:
    """One less the correlation of each row of ``p`` with that of ``q``, averaged over rows."""
    p, q = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
    return 1 - F.cosine_similarity(p, q, dim=1, eps=1e-8).mean()


def _gathered(x: Tensor) -> Tensor:
    """The batch of all processes; gradients flow back to each."""
    if not _has_several_processes():
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x))


def _has_several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def feature_matching(student: Sequence[Tensor], teacher: Sequence[Tensor], together: bool = False) -> Tensor:
    """Squared error of maps, each relative to the variance of the teacher's about its channel means, averaged over places.

    Args:
        student, teacher: maps (N, channels, ...) of equal shapes, one of each for every place.
        together: take the variance over the batches of all processes, which then must all be here at once, as in training.
    """
    errors = [_relative_error(s.float(), t.float(), together) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(errors).mean()


def _relative_error(student: Tensor, teacher: Tensor, together: bool) -> Tensor:
    """The squared error of the maps of one place, relative to the variance of the teacher's."""
    dims = [d for d in range(teacher.dim()) if d != 1]
    if together and _has_several_processes():
        mean = _mean_over_processes(teacher.detach().mean(dims, keepdim=True))
        variance = _mean_over_processes((teacher.detach() - mean).square().mean())
    else:
        variance = teacher.var(dims, unbiased=False).mean()
    return F.mse_loss(student, teacher) / variance.clamp_min(1e-8)


def _mean_over_processes(x: Tensor) -> Tensor:
    """The mean of each process's value; it replaces ``x`` by the sum."""
    torch.distributed.all_reduce(x)
    return x / torch.distributed.get_world_size()


def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with labels; positions of a segmentation that are labelled 255 do not count, and a batch with no others
    costs nothing.

    Args:
        scores: (N, classes, ...).
        labels: class indices (N, ...), or probabilities (N, classes) as mixup makes them.
    """
    if scores.dim() == 2:
        return F.cross_entropy(scores.float(), labels)
    total = F.cross_entropy(scores.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)


def main_output(output: object) -> list[Tensor]:
    """The class scores of a classifier or a segmentation model: first those that it is judged by; of torchvision's segmentation
    models also those of the auxiliary head, if there is one.

    The default of the small protocol that ties a model to the losses: a function that takes what the model returns, and
    returns the tensors (N, classes, ...) that student and teacher are to agree on.

    Raises:
        TypeError: there is no such tensor.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        for keys in (("logits",), ("out", "aux")):
            scores = [output[key] for key in keys if isinstance(output.get(key), Tensor)]
            if scores:
                return scores
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return [output[0]]
    raise TypeError(f"a model that returns {type(output).__name__} needs outputs=, a function that gives the tensors to match")
