"""What a detector learns from: boxes, classes, masks and key points, checked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, ArgumentTypeError


def is_detector(model: nn.Module) -> bool:
    """Whether it is one of torchvision's detectors, or built as they are."""
    from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.ssd import SSD

    return isinstance(model, (GeneralizedRCNN, FasterRCNN, RetinaNet, FCOS, SSD))


def scores_background(model: Any) -> bool:
    """Whether the classes at anchors exclude each other, the first of them that nothing is there (SSD)."""
    from torchvision.models.detection.ssd import SSD

    return isinstance(model, SSD)


def checked_targets(targets: Any, images: Sequence[Tensor], model: nn.Module, name: str) -> list[dict[str, Tensor]]:
    """Targets on the model's device and of the types that torchvision wants, boxes cut at the edges of their images.

    Args:
        targets: a dict for each image, see :class:`ghostify.tasks.detection.Detection`.
        images: (C, H, W) each.
        name: of the argument that they came from, for errors.

    Raises:
        ArgumentError, ArgumentTypeError: they do not fit the images or the model; the message says which.
    """
    if not isinstance(targets, (tuple, list)) or not all(isinstance(target, dict) for target in targets):
        raise ArgumentTypeError(f"{name} must have a dict of boxes and labels for each image, not {_told(targets)}")
    if len(targets) != len(images):
        raise ArgumentError(f"{name} has a batch of {len(images)} images and {len(targets)} targets")
    lowest, classes = _classes(model)
    checked = []
    for number, (target, image) in enumerate(zip(targets, images, strict=True)):
        where = f"{name} has a target (image {number} of its batch)"
        boxes, labels = _boxes(target, image, where), _tensor(target, "labels", where).reshape(-1)
        if len(labels) != len(boxes):
            raise ArgumentError(f"{where} of {len(boxes)} boxes and {len(labels)} labels")
        if labels.is_floating_point() and len(labels):
            raise ArgumentError(f"{where} whose labels are no whole numbers")
        if len(labels) and not lowest <= int(labels.min()) <= int(labels.max()) < classes:
            bad = int(labels.min()) if int(labels.min()) < lowest else int(labels.max())
            raise ArgumentError(f"{where} with label {bad}: the model has classes {lowest} to {classes - 1}")
        made = {"boxes": boxes, "labels": labels.long()} | _shapes(target, image, model, len(boxes), where)
        checked.append({key: value.to(image.device) for key, value in made.items()})
    return checked


def _boxes(target: dict[str, Any], image: Tensor, where: str) -> Tensor:
    boxes = _tensor(target, "boxes", where).float()
    boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ArgumentError(f"{where} whose boxes have shape {tuple(boxes.shape)}: give (n, 4), x1, y1, x2, y2 in pixels")
    if not bool(torch.isfinite(boxes).all()):
        raise ArgumentError(f"{where} whose boxes are not finite")
    height, width = image.shape[-2:]
    cut = boxes.clamp(boxes.new_zeros(4), boxes.new_tensor([width, height, width, height]))
    for given, empty in ((boxes, "has no width or no height"), (cut, f"lies outside of its image of {width} x {height}")):
        bad = (given[:, 2:] <= given[:, :2]).any(1).nonzero()
        if len(bad):
            corners = ", ".join(f"{value:g}" for value in boxes[bad[0, 0]].tolist())
            raise ArgumentError(f"{where} whose box ({corners}) {empty}: boxes are x1, y1, x2, y2 in pixels")
    return cut


def _shapes(target: dict[str, Any], image: Tensor, model: Any, boxes: int, where: str) -> dict[str, Tensor]:
    """Masks and key points, where the model has heads for them."""
    found = {}
    rois: Any = getattr(model, "roi_heads", None)
    if getattr(rois, "mask_roi_pool", None) is not None:
        masks, wanted = _tensor(target, "masks", where), (boxes, *image.shape[-2:])
        masks = masks.reshape(wanted) if not masks.numel() and not boxes else masks
        if tuple(masks.shape) != wanted:
            raise ArgumentError(f"{where} whose masks have shape {tuple(masks.shape)}, not {wanted}")
        found["masks"] = masks.to(torch.uint8)
    if getattr(rois, "keypoint_roi_pool", None) is not None:
        points = _tensor(target, "keypoints", where).float()
        wanted = (boxes, rois.keypoint_predictor.kps_score_lowres.out_channels, 3)
        points = points.reshape(wanted) if not points.numel() and not boxes else points
        if tuple(points.shape) != wanted:
            raise ArgumentError(f"{where} whose keypoints have shape {tuple(points.shape)}, not {wanted}")
        found["keypoints"] = points
    return found


def _tensor(target: dict[str, Any], key: str, where: str) -> Tensor:
    if key not in target:
        raise ArgumentError(f"{where} without {key}: it has {', '.join(map(str, target)) or 'nothing'}")
    try:
        return torch.as_tensor(target[key])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{where} whose {key} are no numbers") from error


def _classes(model: Any) -> tuple[int, int]:
    """The lowest label and one more than the highest."""
    if hasattr(model, "roi_heads"):
        predictor = model.roi_heads.box_predictor
        score = getattr(predictor, "cls_score", predictor)
        return 1, int(getattr(score, "out_features", 2**31))
    head = model.head.classification_head
    return int(scores_background(model)), int(getattr(head, "num_classes", getattr(head, "num_columns", 2**31)))


def _told(given: Any) -> str:
    if isinstance(given, (tuple, list)):
        other = next((item for item in given if not isinstance(item, dict)), None)
        return f"a {type(other).__name__}"
    return f"a {type(given).__name__}"
