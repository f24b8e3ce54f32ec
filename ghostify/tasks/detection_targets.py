"""What a detector learns from: boxes, classes, masks and key points, checked."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ArgumentError, ArgumentTypeError
from .detection_parts import as_detector, has_map_head

Target = dict[str, Tensor]  # of one image: boxes, labels, masks and keypoints


def is_detector(model: nn.Module) -> bool:
    """Whether a network is one of torchvision's detectors, or built as they are."""
    from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
    from torchvision.models.detection.ssd import SSD

    return isinstance(model, (GeneralizedRCNN, FasterRCNN, RetinaNet, FCOS, SSD))


def scores_background(model: nn.Module) -> bool:
    """Whether the classes at anchors exclude each other, the first of them that nothing is there (SSD)."""
    from torchvision.models.detection.ssd import SSD

    return isinstance(model, SSD)


def checked_targets(targets: object, images: Sequence[Tensor], model: nn.Module, name: str) -> list[Target]:
    """Targets on the model's device and of the types that torchvision wants, boxes cut at the edges of their images.

    Args:
        targets: a dict for each image, see :class:`ghostify.tasks.detection.Detection`.
        images: (C, H, W) each.
        name: of the argument that they came from, for errors.

    Raises:
        ArgumentError, ArgumentTypeError: they do not fit the images or the model; the message says which.
    """
    if not isinstance(targets, (tuple, list)) or not all(isinstance(target, dict) for target in targets):
        raise ArgumentTypeError(f"{name} must have a dict of boxes and labels for each image, not {_type_of(targets)}")
    if len(targets) != len(images):
        raise ArgumentError(f"{name} has a batch of {len(images)} images and {len(targets)} targets")
    checked = []
    for number, (target, image) in enumerate(zip(targets, images, strict=True)):
        where = f"{name} has a target (image {number} of its batch)"
        boxes = _boxes(target, image, where)
        tensors = {"boxes": boxes, "labels": _labels(target, model, len(boxes), where)}
        tensors |= _masks_and_points(target, image, model, len(boxes), where)
        checked.append({key: value.to(image.device) for key, value in tensors.items()})
    return checked


def _boxes(target: dict[str, object], image: Tensor, where: str) -> Tensor:
    """The boxes (n, 4), cut at the edges of the image."""
    boxes = _tensor(target, "boxes", where).float()
    boxes = boxes.reshape(0, 4) if not boxes.numel() else boxes
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ArgumentError(f"{where} whose boxes have shape {tuple(boxes.shape)}: give (n, 4), x1, y1, x2, y2 in pixels")
    if not bool(torch.isfinite(boxes).all()):
        raise ArgumentError(f"{where} whose boxes are not finite")
    height, width = image.shape[-2:]
    cut = boxes.clamp(boxes.new_zeros(4), boxes.new_tensor([width, height, width, height]))
    reasons = ((boxes, "has no width or no height"), (cut, f"lies outside of its image of {width} x {height}"))
    for corners, reason in reasons:
        empty = (corners[:, 2:] <= corners[:, :2]).any(1).nonzero()
        if len(empty):
            box = ", ".join(f"{value:g}" for value in boxes[empty[0, 0]].tolist())
            raise ArgumentError(f"{where} whose box ({box}) {reason}: boxes are x1, y1, x2, y2 in pixels")
    return cut


def _labels(target: dict[str, object], model: nn.Module, boxes: int, where: str) -> Tensor:
    """The labels (boxes,) as whole numbers, each of them a class of the model."""
    labels = _tensor(target, "labels", where).reshape(-1)
    if len(labels) != boxes:
        raise ArgumentError(f"{where} of {boxes} boxes and {len(labels)} labels")
    if labels.is_floating_point() and len(labels):
        raise ArgumentError(f"{where} whose labels are no whole numbers")
    lowest, classes = _classes(model)
    if len(labels) and not lowest <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.min()) if int(labels.min()) < lowest else int(labels.max())
        raise ArgumentError(f"{where} with label {wrong}: the model has classes {lowest} to {classes - 1}")
    return labels.long()


def _masks_and_points(target: dict[str, object], image: Tensor, model: nn.Module, boxes: int, where: str) -> Target:
    """Masks and key points, where the model has heads for them."""
    tensors = {}
    if has_map_head(model, "mask"):
        masks, shape = _tensor(target, "masks", where), (boxes, *image.shape[-2:])
        masks = masks.reshape(shape) if not masks.numel() and not boxes else masks
        if tuple(masks.shape) != shape:
            raise ArgumentError(f"{where} whose masks have shape {tuple(masks.shape)}, not {shape}")
        tensors["masks"] = masks.to(torch.uint8)
    if has_map_head(model, "keypoint"):
        points = _tensor(target, "keypoints", where).float()
        shape = (boxes, as_detector(model).roi_heads.keypoint_predictor.kps_score_lowres.out_channels, 3)
        points = points.reshape(shape) if not points.numel() and not boxes else points
        if tuple(points.shape) != shape:
            raise ArgumentError(f"{where} whose keypoints have shape {tuple(points.shape)}, not {shape}")
        tensors["keypoints"] = points
    return tensors


def _tensor(target: dict[str, object], key: str, where: str) -> Tensor:
    """One entry of a target as a tensor."""
    if key not in target:
        raise ArgumentError(f"{where} without {key}: it has {', '.join(map(str, target)) or 'nothing'}")
    try:
        return torch.as_tensor(target[key])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{where} whose {key} are no numbers") from error


def _classes(model: nn.Module) -> tuple[int, int]:
    """The lowest label and one more than the highest."""
    if hasattr(model, "roi_heads"):
        predictor = as_detector(model).roi_heads.box_predictor
        score = getattr(predictor, "cls_score", predictor)
        return 1, int(getattr(score, "out_features", 2**31))
    head = as_detector(model).head.classification_head
    return int(scores_background(model)), int(getattr(head, "num_classes", getattr(head, "num_columns", 2**31)))


def _type_of(targets: object) -> str:
    """The type of something that is no list of dicts, or of the first thing in it that is no dict."""
    if isinstance(targets, (tuple, list)):
        other = next((target for target in targets if not isinstance(target, dict)), None)
        return f"a {type(other).__name__}"
    return f"a {type(targets).__name__}"
