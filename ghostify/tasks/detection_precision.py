"""Mean average precision of a detector, by torchmetrics with pycocotools."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.processes import sum_over_processes
from ..errors import ArgumentError

SURE = 0.5  # the score from which a detection of the teacher's counts as an object


@dataclass(frozen=True)
class DetectionEvaluation:
    """Shares from 0 to 1; None where there was nothing to compare with.

    Attributes:
        images: how many.
        map: mean average precision as COCO defines it, the mean over overlaps (IoU) of 0.5, 0.55 to 0.95.
        map50, map75: at an overlap of 0.5, of 0.75.
        per_class: map of each class that there are boxes of, by its label.
        mask_map, mask_map50: the same of masks.
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
        """What there is of map, map50, mask_map and agreement."""
        named = {"map": self.map, "map50": self.map50, "mask_map": self.mask_map, "agreement": self.agreement}
        return {name: value for name, value in named.items() if value is not None}

    def __str__(self) -> str:
        named = (
            ("mAP", self.map), ("mAP@0.5", self.map50), ("mAP@0.75", self.map75), ("mask mAP", self.mask_map),
            ("mask mAP@0.5", self.mask_map50), ("agrees with the teacher", self.agreement),
        )  # fmt: skip
        return ", ".join([f"{self.images} images"] + [f"{name} {value:.2%}" for name, value in named if value is not None])


class DetectionMatches:
    """Collects detections and what they are held to. Under several processes all get the same result."""

    def __init__(self, model: nn.Module, name: str):
        self.masks = getattr(getattr(model, "roi_heads", None), "mask_roi_pool", None) is not None
        self.name = name
        self.images = 0
        self.by_labels: Any = None
        self.by_teacher: Any = None

    def add(
        self, found: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]] | None, theirs: Any = None
    ) -> None:  # fmt: skip
        """Of one batch: detections of the network, targets, detections of the teacher."""
        self.images += len(found)
        mine = [self._ready(one) for one in found]
        if targets is not None:
            self.by_labels = self.by_labels or self._metric(True)
            keys = ("boxes", "labels", "masks") if self.masks else ("boxes", "labels")
            self.by_labels.update(mine, [{key: target[key].cpu() for key in keys} for target in targets])
        if theirs is not None:
            self.by_teacher = self.by_teacher or self._metric(False)
            sure = [{key: value[one["scores"] >= SURE].cpu() for key, value in one.items()} for one in theirs]
            self.by_teacher.update(mine, [{key: one[key] for key in ("boxes", "labels")} for one in sure])

    def _metric(self, labels: bool) -> Any:
        try:
            from torchmetrics.detection import MeanAveragePrecision

            kinds: Any = ("bbox", "segm") if self.masks and labels else "bbox"
            return MeanAveragePrecision(iou_type=kinds, class_metrics=labels)
        except ImportError as error:  # torchmetrics, or pycocotools, which it looks for itself
            raise ArgumentError(
                "average precision needs torchmetrics and pycocotools: pip install 'ghostify[detection]'"
            ) from error

    def _ready(self, one: dict[str, Tensor]) -> dict[str, Tensor]:
        made = {key: one[key].detach().cpu() for key in ("boxes", "labels", "scores")}
        if self.masks:
            made["masks"] = (one["masks"].detach().squeeze(1) > 0.5).cpu()
        return made

    def finish(self) -> DetectionEvaluation:
        """
        Raises:
            ArgumentError: no image, or nothing to compare with.
        """
        total = int(sum_over_processes(torch.tensor(self.images)))
        if not total:
            raise ArgumentError(f"{self.name} holds no image")
        if self.by_labels is None and self.by_teacher is None:
            raise ArgumentError(f"{self.name} has no targets: give targets, or a teacher to compare with")
        told: dict[str, Any] = {}
        if self.by_labels is not None:
            values = self.by_labels.compute()
            box = "bbox_" if self.masks else ""
            told = {"map": values[f"{box}map"], "map50": values[f"{box}map_50"], "map75": values[f"{box}map_75"]}
            if self.masks:
                told |= {"mask_map": values["segm_map"], "mask_map50": values["segm_map_50"]}
            told = {name: _share(value) for name, value in told.items()}
            classes = values["classes"].reshape(-1).tolist()
            shares = values[f"{box}map_per_class"].reshape(-1).tolist()
            told["per_class"] = {int(label): share for label, share in zip(classes, shares, strict=True) if share >= 0}
        if self.by_teacher is not None:
            told["agreement"] = _share(self.by_teacher.compute()["map_50"])
        return DetectionEvaluation(total, **told)


def _share(value: Tensor) -> float | None:
    """None where there is no box to find, for which torchmetrics says -1."""
    return float(value) if float(value) >= 0 else None
