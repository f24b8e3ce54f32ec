"""Pictures of coloured shapes with their boxes, in the layout of Ultralytics' data sets."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def write_shapes(folder: Path, images: int = 8, size: int = 64) -> Path:
    """A data set of red circles and green squares for training, and as many for validation; the path of its yaml file."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(images):
            picture, rows = Image.new("RGB", (size, size), (int(rng.integers(60)),) * 3), []
            for _ in range(2):
                kind, radius = int(rng.integers(2)), int(rng.integers(size // 10, size // 5))
                x, y = (int(rng.integers(radius, size - radius)) for _ in "xy")
                draw, box = ImageDraw.Draw(picture), (x - radius, y - radius, x + radius, y + radius)
                draw.rectangle(box, (40, 230, 40)) if kind else draw.ellipse(box, (230, 40, 40))
                rows.append(f"{kind} {x / size} {y / size} {2 * radius / size} {2 * radius / size}")
            picture.save(folder / "images" / split / f"{number}.png")
            (folder / "labels" / split / f"{number}.txt").write_text("\n".join(rows))
    names = "names: {0: circle, 1: square}"
    (folder / "shapes.yaml").write_text(f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\n{names}\n")
    return folder / "shapes.yaml"
