"""Small scenes of coloured rectangles, with boxes, masks and key points."""

import torch
from torch import Tensor

CLASSES = 4  # the background is one
POINTS = 5


def scene(seed: int, side: int, objects: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, side, side) and its target; an object of class c is a rectangle in color c - 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    image = 0.2 * torch.rand(3, side, side, generator=generator)
    boxes, labels, masks, points = [], [], [], []
    for _ in range(objects):
        width, height = draw(24, 48), draw(24, 48)
        x, y, label = draw(0, side - width), draw(0, side - height), draw(1, CLASSES)
        image[label - 1, y : y + height, x : x + width] = 1
        mask = torch.zeros(side, side, dtype=torch.uint8)
        mask[y : y + height, x : x + width] = 1
        boxes.append([x, y, x + width, y + height])
        labels.append(label)
        masks.append(mask)
        points.append([[x + width * point / POINTS, y + height * point / POINTS, 1] for point in range(POINTS)])
    return image, {
        "boxes": torch.tensor(boxes).float(),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.stack(masks),
        "keypoints": torch.tensor(points).float(),
    }
