"""Halve a segmentation network of torchvision: convert, calibrate, distil, measure.

    python examples/segment.py --model lraspp_mobilenet_v3_large --train DIR --val DIR

Each folder has pictures (NAME.jpg) and beside them their classes (NAME.png), one number for each pixel, 255 where there is
none. Without --weights the teacher has the library's own, of Pascal VOC's 21 classes.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import ghostify


class Pictures(Dataset):
    def __init__(self, folder: Path, height: int, width: int, training: bool):
        self.files = sorted(folder.glob("*.jpg"))
        self.transform = v2.Compose(
            [
                v2.Resize((height, width)),
                v2.RandomHorizontalFlip(0.5 if training else 0),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
                v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.files[index]) as picture, Image.open(self.files[index].with_suffix(".png")) as classes:
            image, labels = v2.functional.to_image(picture.convert("RGB")), v2.functional.pil_to_tensor(classes)[0]
        image, labels = self.transform(tv_tensors.Image(image), tv_tensors.Mask(labels))
        return image.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lraspp_mobilenet_v3_large")
    parser.add_argument("--weights", type=Path, help="a state_dict of the model, where it is not torchvision's own")
    parser.add_argument("--classes", type=int, help="of these weights")
    for name in ("train", "val"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("segmenter"))
    args = parser.parse_args()

    build = partial(ghostify.create_model, f"torchvision/{args.model}")
    if args.weights is None:
        teacher = build(pretrained=True).eval()
    else:
        teacher = build(num_classes=args.classes, weights_backbone=None).eval()
        teacher.load_state_dict(torch.load(args.weights, weights_only=True))
    train, val = (
        DataLoader(Pictures(folder, *args.size, training), args.batch_size, shuffle=training, drop_last=training)
        for folder, training in ((args.train, True), (args.val, False))
    )

    student = ghostify.convert(teacher, ratio=2)
    print(ghostify.report(student, (1, 3, *args.size)))
    ghostify.calibrate(student, teacher, train, method="least_squares", max_images=64, progress=True)
    recipe = ghostify.Recipe(steps=args.steps, lr=3e-4, optimizer="adamw", temperature=1, labels=1, clip=10)
    ghostify.distill(student, teacher, train, recipe=recipe, out=args.out, resume=args.out.exists(), progress=True)
    for name, model in (("teacher", teacher), ("student", student)):
        print(f"{name}: {ghostify.evaluate(model, val, progress=True)}")


if __name__ == "__main__":
    main()
