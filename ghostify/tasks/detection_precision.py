"""Mean average precision of a detector, by torchmetrics with pycocotools."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..common.processes import sum_over_processes
from ..errors import ArgumentError
from .detection_parts import has_map_head

if TYPE_CHECKING:
    from torchmetrics.detection import MeanAveragePrecision

SURE = 0.5  # the score from which a detection of the teacher's counts as an object


@dataclass(frozen=True)
class DetectionEvaluation:
    """Shares from 0 to 1; None where there was nothing to compare with.

    Attributes:
        images: number of images.
        map: mean average precision as COCO defines it, the mean over overlaps (IoU) of 0.5, 0.55 to 0.95.
        map50, map75: average precision at an overlap of 0.5, of 0.75.
        per_class: ``map`` of each class that there are boxes of, by its label.
        mask_map, mask_map50: ``map`` and ``map50`` of masks in place of boxes.
        agreement: map50 with the teacher's detections of a score of 0.5 and more in place of labels.
    """

    images: int
    map: float | None = None
    map50: float | None = None
    map75: float | None = None
    per_class: dict[int, float] | None = None
    mask_map: float | None = None
    mask_map50: float | None = None
    agreement: float | None = None

    def scores(self) -> dict[str, float]:
        """Those of map, map50, mask_map and agreement that are not None."""
        named = {"map": self.map, "map50": self.map50, "mask_map": self.mask_map, "agreement": self.agreement}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        shares = (
            ("mAP", self.map),
            ("mAP@0.5", self.map50),
            ("mAP@0.75", self.map75),
            ("mask mAP", self.mask_map),
            ("mask mAP@0.5", self.mask_map50),
            ("agrees with the teacher", self.agreement),
        )
        texts = [f"{name} {value:.2%}" for name, value in shares if value is not None]
        return ", ".join([f"{self.images} images", *texts])


class DetectionMatches:
    """Collects detections and the boxes that they are held to. Under several processes all get the same result.

    Args:
        model: the detector, which may have a head for masks.
        name: of the argument that images came from, for errors.
    """

    def __init__(self, model: nn.Module, name: str):
        self.masks = has_map_head(model, "mask")
        self.name = name
        self.images = 0
        self.by_labels: MeanAveragePrecision | None = None  # once there is something to compare with
        self.by_teacher: MeanAveragePrecision | None = None

    def add(
        self,
        detections: Sequence[dict[str, Tensor]],
        targets: Sequence[dict[str, Tensor]] | None,
        teacher_detections: Sequence[dict[str, Tensor]] | None = None,
    ) -> None:
        """Add a batch, one dict for each image.

        Args:
            detections: of the network: ``boxes``, ``labels``, ``scores``, and ``masks`` where it has them.
            targets: ``boxes`` and ``labels``, and ``masks`` where the network has them; None where there are none.
            teacher_detections: of the teacher; None where there is none.

        Raises:
            ArgumentError: torchmetrics or pycocotools is missing.
        """
        self.images += len(detections)
        predictions = [self._prediction(detection) for detection in detections]
        if targets is not None:
            self.by_labels = self.by_labels or self._metric(True)
            keys = ("boxes", "labels", "masks") if self.masks else ("boxes", "labels")
            self.by_labels.update(predictions, [{key: target[key].cpu() for key in keys} for target in targets])
        if teacher_detections is not None:
            self.by_teacher = self.by_teacher or self._metric(False)
            self.by_teacher.update(predictions, [_sure_boxes(detection) for detection in teacher_detections])

    def finish(self) -> DetectionEvaluation:
        """The precision over all batches of all processes.

        Raises:
            ArgumentError: no image, or nothing to compare with.
        """
        images = int(sum_over_processes(torch.tensor(self.images)))
        if not images:
            raise ArgumentError(f"{self.name} holds no image")
        if self.by_labels is None and self.by_teacher is None:
            raise ArgumentError(f"{self.name} has no targets: give targets, or a teacher to compare with")
        evaluation = DetectionEvaluation(images)
        if self.by_labels is not None:
            evaluation = self._by_labels(images, self.by_labels.compute())
        if self.by_teacher is None:
            return evaluation
        return replace(evaluation, agreement=_share(self.by_teacher.compute()["map_50"]))

    def _metric(self, labels: bool) -> "MeanAveragePrecision":
        """torchmetrics' mean average precision; by labels also of masks, where the network has them, and of each class."""
        try:
            from torchmetrics.detection import MeanAveragePrecision

            both = self.masks and labels
            return MeanAveragePrecision(iou_type=("bbox", "segm") if both else "bbox", class_metrics=labels)
        except ImportError as error:  # torchmetrics, or pycocotools, which it looks for itself
            raise ArgumentError(
                "average precision needs torchmetrics and pycocotools: pip install 'ghostify[detection]'"
            ) from error

    def _prediction(self, detection: dict[str, Tensor]) -> dict[str, Tensor]:
        """The detections of an image as torchmetrics takes them."""
        prediction = {key: detection[key].detach().cpu() for key in ("boxes", "labels", "scores")}
        if self.masks:
            prediction["masks"] = (detection["masks"].detach().squeeze(1) > 0.5).cpu()
        return prediction

    def _by_labels(self, images: int, values: dict[str, Tensor]) -> DetectionEvaluation:
        """The precision by labels, from what torchmetrics computed."""
        box = "bbox_" if self.masks else ""
        classes = values["classes"].reshape(-1).tolist()
        shares = values[f"{box}map_per_class"].reshape(-1).tolist()
        return DetectionEvaluation(
            images,
            map=_share(values[f"{box}map"]),
            map50=_share(values[f"{box}map_50"]),
            map75=_share(values[f"{box}map_75"]),
            per_class={int(label): share for label, share in zip(classes, shares, strict=True) if share >= 0},
            mask_map=_share(values["segm_map"]) if self.masks else None,
            mask_map50=_share(values["segm_map_50"]) if self.masks else None,
        )


def _sure_boxes(detection: dict[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's detections that count as objects."""
    sure = detection["scores"] >= SURE
    return {key: detection[key][sure].cpu() for key in ("boxes", "labels")}


def _share(value: Tensor) -> float | None:
    """None where there is no box to find, for which torchmetrics says -1."""
    return float(value) if float(value) >= 0 else None
