"""The data sets of detection and segmentation: BCCD's blood cells and CamVid's streets."""

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Cells(Dataset):
    """BCCD at 256x192: (image, target)."""

    size, classes = (192, 256), 4  # red and white cells, platelets, and nothing

    def __init__(self, folder: Path, split: str, training: bool):
        content = json.loads((folder / "annotations.json").read_text())
        self.training = training
        self.items = []
        for name in content["splits"][split]:
            with Image.open(folder / "images" / f"{name}.jpg") as picture:
                image = F.pil_to_tensor(picture.convert("RGB").resize(self.size[::-1], Image.Resampling.BILINEAR))
            objects = torch.tensor(content["annotations"][name]["boxes"])
            boxes = objects[:, :4] * torch.tensor(self.size[::-1] * 2) / torch.tensor(content["annotations"][name]["size"] * 2)
            sound = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
            self.items.append((image, boxes[sound], objects[sound, 4]))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, boxes, labels = self.items[index]
        if self.training:  # cells have no up and no left
            height, width = self.size
            for axis, side in ((-1, width), (-2, height)):
                if torch.rand(()) < 0.5:
                    image, boxes = image.flip(axis), boxes.clone()
                    start = -1 - axis  # 0 for x1 and x2, 1 for y1 and y2
                    boxes[:, start::2] = side - boxes[:, start::2].flip(1)
        return image / 255, {"boxes": boxes.clone(), "labels": labels}


class Streets(Dataset):
    """CamVid at 240x180: (image, classes), 255 where there is none."""

    size, classes = (180, 240), 11
    augment = v2.Compose(
        [
            v2.ScaleJitter(size, (0.75, 2.0)),
            v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.RandomHorizontalFlip(),
        ]
    )

    def __init__(self, folder: Path, split: str, training: bool):
        self.training = training
        self.items = []
        for file in sorted((folder / split).glob("*.jpg")):
            with Image.open(file) as picture, Image.open(file.with_suffix(".png")) as classes:
                image, labels = F.pil_to_tensor(picture.convert("RGB")), F.pil_to_tensor(classes)[0].long()
            labels[labels >= self.classes] = 255
            self.items.append((image, labels))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.items[index]
        if self.training:
            image, labels = self.augment(tv_tensors.Image(image), tv_tensors.Mask(labels))
            image, labels = image.as_subclass(Tensor), labels.as_subclass(Tensor)
        return (image / 255 - MEAN) / STD, labels
