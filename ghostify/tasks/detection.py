"""torchvision's detectors in training and evaluation: Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS, SSD."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.calls import collected_outputs, evaluation_mode, run_checked
from ..common.progress import over_batches
from ..errors import ArgumentError
from ..inputs.images import first_images, placed
from ..inputs.sources import Source, shared_out
from ..losses import logit_distillation
from .detection_precision import DetectionEvaluation, DetectionMatches
from .detection_targets import checked_targets, scores_background
from .task import LossWeights, Task

PROPOSALS = 256  # of the teacher, for each image, that heads are compared on


FOUND = 16  # of them, those where it is surest of an object, that masks and key points are compared on


BETA = 1 / 9  # where the error of a box turns from quadratic to linear; torchvision's


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

    def split(self, item: Any, model: nn.Module, name: str = "train") -> tuple[Any, Any]:
        images = list(placed(first_images(item), model))
        targets = None
        if isinstance(item, dict):
            targets = next((item[key] for key in ("targets", "labels") if key in item), None)
        elif isinstance(item, (tuple, list)) and len(item) == 2 and not isinstance(item[1], Tensor):
            targets = item[1]
        return images, None if targets is None else checked_targets(targets, images, model, name)

    def begin(self, student: Any, teacher: Any, images: Any) -> None:
        super().begin(student, teacher, images)
        batch = student.transform(images)[0]
        shapes = [[tuple(t.shape[1:]) for t in _look(model, batch).heads.values()] for model in (student, teacher)]
        if shapes[0] != shapes[1]:
            told = [", ".join(map(str, found)) for found in shapes]
            raise ArgumentError(f"student and teacher differ in what their heads give: {told[0]} against {told[1]}")

    def check(self, targets: Any) -> Any:
        if targets is None:
            raise ArgumentError("the recipe weighs labels, but train has no targets")
        return targets

    def run(self, model: Any, images: Any) -> None:
        _look(model, model.transform(images)[0])

    def losses(
        self, student: Any, teacher: Any, images: Any, targets: Any, recipe: LossWeights
    ) -> dict[str, Tensor]:  # fmt: skip
        if recipe.relation:
            raise ArgumentError("relation compares the classes of whole images, and a detector has none: set it to 0")
        found: dict[str, Tensor] = {}
        if targets is None:
            mine = _look(student, student.transform(images)[0])
        else:
            with _watched(student) as seen:
                own = student(images, targets)
            mine = seen()
            found["labels"] = torch.stack([value.float() for value in own.values()]).sum()
        with torch.no_grad():
            theirs = _look(teacher, mine.batch)
        if recipe.logits:
            found["logits"] = _unlike(mine, theirs, scores_background(student))
            if theirs.proposals is not None:
                found["logits"] = found["logits"] + _unlike_on_proposals(student, teacher, mine, theirs)
        return found

    def evaluate(
        self, model: nn.Module, teacher: nn.Module | None, source: Source, progress: bool = False
    ) -> DetectionEvaluation:  # fmt: skip
        matches = DetectionMatches(model, source.name)
        with torch.no_grad(), evaluation_mode(model), evaluation_mode(teacher if teacher is not None else model):
            for item in over_batches(shared_out(source, 0, training=False), len(source), progress):
                images, targets = self.split(item, model, source.name)
                theirs = None if teacher is None else run_checked(teacher, (images,), {})
                matches.add(run_checked(model, (images,), {}), targets, theirs)
        return matches.finish()


@dataclass(frozen=True)
class _Seen:
    """What a detector made of a batch.

    Attributes:
        batch: the images as the backbone takes them, an ImageList.
        maps: of the pyramid.
        heads: what heads say at every anchor: ``classes`` (N, anchors, classes or 1), ``boxes`` (N, anchors, 4), and FCOS's
            ``centres`` (N, anchors, 1).
        proposals: boxes (n, 4) for each image, of a network with proposals in evaluation mode.
    """

    batch: Any
    maps: dict[str, Tensor]
    heads: dict[str, Tensor]
    proposals: list[Tensor] | None = None


def _has_proposals(model: nn.Module) -> bool:
    return hasattr(model, "rpn")


def _dense_head(model: Any) -> nn.Module:
    head: nn.Module = model.rpn.head if _has_proposals(model) else model.head
    return head


def _look(model: Any, batch: Any) -> _Seen:
    """Run the parts that work on the whole image."""
    maps = _named(model.backbone(batch.tensors))
    if not _has_proposals(model) or model.training:
        return _Seen(batch, maps, _flat(_dense_head(model)(list(maps.values()))))
    with collected_outputs(model.rpn.head) as heads:
        proposals, _ = model.rpn(batch, maps)
    return _Seen(batch, maps, _flat(heads[0]), proposals)


@contextmanager
def _watched(model: Any) -> Iterator[Any]:
    """Gives a function that tells, once the model has run, what its parts gave."""
    with (
        collected_outputs(model.transform) as batches,
        collected_outputs(model.backbone) as maps,
        collected_outputs(_dense_head(model)) as heads,
    ):
        yield lambda: _Seen(batches[0][0], _named(maps[0]), _flat(heads[0]))


def _named(maps: Any) -> dict[str, Tensor]:
    return {"0": maps} if isinstance(maps, Tensor) else maps


def _flat(given: Any) -> dict[str, Tensor]:
    """From levels of the pyramid to one row of anchors."""
    if isinstance(given, Mapping):
        names = {"cls_logits": "classes", "bbox_regression": "boxes", "bbox_ctrness": "centres"}
        return {names[key]: value for key, value in given.items()}
    objectness, boxes = given  # each a list of (N, anchors * numbers, H, W)
    return {"classes": _anchors(objectness, 1), "boxes": _anchors(boxes, 4)}


def _anchors(levels: Sequence[Tensor], numbers: int) -> Tensor:
    return torch.cat([x.unflatten(1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in levels], 1)


def _unlike(mine: _Seen, theirs: _Seen, background: bool) -> Tensor:
    """How heads differ at all anchors, for each object that the teacher sees.

    Args:
        background: whether class 0 is that nothing is there, and classes exclude each other.
    """
    given, goals = mine.heads, theirs.heads
    s, t = given["classes"].float(), goals["classes"].float()
    if background:
        sure = 1 - t.softmax(-1)[..., 0]
        apart = F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    else:
        sure = t.sigmoid().amax(-1)
        apart = _binary_divergence(s, t).sum(-1)
    objects = sure.sum().clamp_min(1)
    error = F.smooth_l1_loss(given["boxes"].float(), goals["boxes"].float(), beta=BETA, reduction="none").sum(-1)
    found = (apart.sum() + (sure * error).sum()) / objects
    if "centres" in goals:
        centres = _binary_divergence(given["centres"].float(), goals["centres"].float())
        found = found + (sure * centres[..., 0]).sum() / objects
    return found


def _binary_divergence(s: Tensor, t: Tensor) -> Tensor:
    """Kullback-Leibler divergence of two-way choices, from their logits."""
    p = t.sigmoid()
    return F.binary_cross_entropy_with_logits(s, p, reduction="none") - F.binary_cross_entropy_with_logits(
        t, p, reduction="none"
    )


def _unlike_on_proposals(student: Any, teacher: Any, mine: _Seen, theirs: _Seen) -> Tensor:
    """How classes, boxes, masks and key points differ on some of the teacher's proposals."""
    assert theirs.proposals is not None
    sizes = theirs.batch.image_sizes
    boxes = [p[torch.randperm(len(p))[:PROPOSALS].to(p.device)] for p in theirs.proposals]
    if not sum(map(len, boxes)):
        return torch.zeros((), device=theirs.batch.tensors.device)
    with torch.no_grad():
        goals, places = (t.float() for t in _box_head(teacher, theirs.maps, boxes, sizes))
    given, moved = (t.float() for t in _box_head(student, mine.maps, boxes, sizes))
    if given.shape != goals.shape:
        raise ArgumentError(f"student and teacher differ in their classes: {given.shape[1]} against {goals.shape[1]}")
    sure = goals.softmax(1)[:, 1:]
    error = F.smooth_l1_loss(moved, places, beta=BETA, reduction="none").unflatten(1, (-1, 4)).sum(-1)
    if error.shape[1] > 1:  # boxes of each class
        error = error[:, 1:]
    found = logit_distillation(given, goals, 1.0) + (sure * error).sum() / sure.sum().clamp_min(1)
    counts = [len(b) for b in boxes]
    surest, classes = sure.max(1)
    best = [part.topk(min(FOUND, len(part))).indices for part in surest.split(counts)]
    chosen = [b[index] for b, index in zip(boxes, best, strict=True)]
    named = torch.cat([part[i] for part, i in zip(classes.split(counts), best, strict=True)]) + 1
    for kind in ("mask", "keypoint"):
        if getattr(student.roi_heads, f"{kind}_roi_pool", None) is None:
            continue
        with torch.no_grad():
            goal = _map_head(teacher, kind, theirs.maps, chosen, sizes).float()
        guess = _map_head(student, kind, mine.maps, chosen, sizes).float()
        if kind == "mask":
            rows = torch.arange(len(named), device=named.device)
            found = found + _binary_divergence(guess[rows, named], goal[rows, named]).mean()
        else:
            found = found + logit_distillation(guess.flatten(0, 1).flatten(1), goal.flatten(0, 1).flatten(1), 1.0)
    return found


def _box_head(model: Any, maps: Any, boxes: list[Tensor], sizes: Any) -> tuple[Tensor, Tensor]:
    rois = model.roi_heads
    classes, moved = rois.box_predictor(rois.box_head(rois.box_roi_pool(maps, boxes, sizes)))
    return classes, moved


def _map_head(model: Any, kind: str, maps: Any, boxes: list[Tensor], sizes: Any) -> Tensor:
    pool, head, predictor = (getattr(model.roi_heads, f"{kind}_{part}") for part in ("roi_pool", "head", "predictor"))
    found: Tensor = predictor(head(pool(maps, boxes, sizes)))
    return found
