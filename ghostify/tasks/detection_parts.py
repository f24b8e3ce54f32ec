"""The parts of torchvision's detectors, run one by one: what works on the whole image, and heads on given proposals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..common.calls import collected_outputs

if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList


class Detector(Protocol):
    """The parts of a detector, attributes that :class:`torch.nn.Module` does not know. One with proposals has ``rpn`` and
    ``roi_heads``, another ``head``."""

    transform: nn.Module
    backbone: nn.Module
    head: Any
    rpn: Any
    roi_heads: Any


def as_detector(model: nn.Module) -> Detector:
    """A network whose parts are known to be those of a detector."""
    return cast(Detector, model)


@dataclass(frozen=True)
class PartOutputs:
    """What the parts of a detector gave for a batch.

    Attributes:
        batch: the images as the backbone takes them.
        maps: of the pyramid, (N, channels, H, W) each.
        heads: what heads say at every anchor: ``classes`` (N, anchors, classes or 1), ``boxes`` (N, anchors, 4), and FCOS's
            ``centres`` (N, anchors, 1).
        proposals: boxes (n, 4) for each image, of a network with proposals in evaluation mode; None otherwise.
    """

    batch: "ImageList"
    maps: dict[str, Tensor]
    heads: dict[str, Tensor]
    proposals: list[Tensor] | None = None


def transformed(model: nn.Module, images: Sequence[Tensor]) -> "ImageList":
    """Images as a detector's backbone takes them, all of one size."""
    batch: ImageList = as_detector(model).transform(images)[0]
    return batch


def run_parts(model: nn.Module, batch: "ImageList") -> PartOutputs:
    """Run the parts that work on the whole image: backbone, pyramid, and the head at all anchors; of a network with proposals
    in evaluation mode also the choice of proposals.

    Args:
        model: a detector.
        batch: images as its transform gives them.
    """
    detector = as_detector(model)
    maps = _named(detector.backbone(batch.tensors))
    if not _has_proposals(model) or model.training:
        return PartOutputs(batch, maps, _by_anchor(_dense_head(model)(list(maps.values()))))
    with collected_outputs(detector.rpn.head) as heads:
        proposals, _ = detector.rpn(batch, maps)
    return PartOutputs(batch, maps, _by_anchor(heads[0]), proposals)


@contextmanager
def watched_parts(model: nn.Module) -> Iterator[Callable[[], PartOutputs]]:
    """Watch the parts that work on the whole image while the model runs.

    Yields:
        A function that returns their outputs, once the model has run.
    """
    detector = as_detector(model)
    with (
        collected_outputs(detector.transform) as batches,
        collected_outputs(detector.backbone) as maps,
        collected_outputs(_dense_head(model)) as heads,
    ):
        yield lambda: PartOutputs(batches[0][0], _named(maps[0]), _by_anchor(heads[0]))


def run_box_head(model: nn.Module, outputs: PartOutputs, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The class scores (n, classes) and the box corrections (n, 4 or 4 * classes) of a network with proposals.

    Args:
        model: the network.
        outputs: of its parts.
        boxes: proposals (n, 4) for each image; n in the result is their total.
    """
    heads = as_detector(model).roi_heads
    features = heads.box_head(heads.box_roi_pool(outputs.maps, boxes, outputs.batch.image_sizes))
    scores, corrections = heads.box_predictor(features)
    return scores, corrections


def run_map_head(model: nn.Module, kind: str, outputs: PartOutputs, boxes: list[Tensor]) -> Tensor:
    """The maps (n, classes or key points, H, W) of the head for masks or key points.

    Args:
        model: a network with proposals.
        kind: ``"mask"`` or ``"keypoint"``.
        outputs: of its parts.
        boxes: proposals (n, 4) for each image; n in the result is their total.
    """
    heads = as_detector(model).roi_heads
    pool, head, predictor = (getattr(heads, f"{kind}_{part}") for part in ("roi_pool", "head", "predictor"))
    maps: Tensor = predictor(head(pool(outputs.maps, boxes, outputs.batch.image_sizes)))
    return maps


def has_map_head(model: nn.Module, kind: str) -> bool:
    """Whether a network has a head for masks (``kind`` is ``"mask"``) or key points (``"keypoint"``)."""
    return getattr(getattr(model, "roi_heads", None), f"{kind}_roi_pool", None) is not None


def _has_proposals(model: nn.Module) -> bool:
    return hasattr(model, "rpn")


def _dense_head(model: nn.Module) -> nn.Module:
    """The head that runs at all anchors."""
    detector = as_detector(model)
    head: nn.Module = detector.rpn.head if _has_proposals(model) else detector.head
    return head


def _named(maps: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps of a backbone by name; a backbone without a pyramid gives a single one."""
    return {"0": maps} if isinstance(maps, Tensor) else maps


def _by_anchor(outputs: Mapping[str, Tensor] | tuple[list[Tensor], list[Tensor]]) -> dict[str, Tensor]:
    """What a head gave for each level of the pyramid, as one row of anchors for each image."""
    if isinstance(outputs, Mapping):
        names = {"cls_logits": "classes", "bbox_regression": "boxes", "bbox_ctrness": "centres"}
        return {names[key]: value for key, value in outputs.items()}
    objectness, boxes = outputs  # each a list of (N, anchors * numbers, H, W)
    return {"classes": _joined_levels(objectness, 1), "boxes": _joined_levels(boxes, 4)}


def _joined_levels(levels: Sequence[Tensor], numbers: int) -> Tensor:
    """Levels (N, anchors * numbers, H, W) as one tensor (N, all anchors, numbers)."""
    return torch.cat([x.unflatten(1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in levels], 1)
