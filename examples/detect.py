"""Halve a detector of torchvision: convert, calibrate, distil, measure.

    python examples/detect.py --model fasterrcnn_resnet50_fpn --train DIR ANNOTATIONS.json --val DIR ANNOTATIONS.json

Each set is a folder of pictures and their boxes in COCO's format. Without --weights the teacher has the library's own, of COCO.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

import ghostify


def loader(folder: str, annotations: str, batch_size: int, training: bool) -> DataLoader:
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(0.5 if training else 0), v2.ToDtype(torch.float32, scale=True)]
    data = CocoDetection(folder, annotations, transforms=v2.Compose(steps))
    data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    return DataLoader(data, batch_size, shuffle=training, drop_last=training, collate_fn=collate)


def collate(items: list) -> tuple[list, list]:
    images, targets = zip(*items, strict=True)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}  # a picture without objects
    return [image.as_subclass(torch.Tensor) for image in images], [{**empty, **target} for target in targets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fasterrcnn_resnet50_fpn")
    parser.add_argument("--weights", type=Path, help="a state_dict of the model, where it is not torchvision's own")
    parser.add_argument("--classes", type=int, help="of these weights, the background among them")
    for name in ("train", "val"):
        parser.add_argument(f"--{name}", nargs=2, required=True, metavar=("FOLDER", "JSON"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("detector"))
    args = parser.parse_args()

    build = partial(ghostify.create_model, f"torchvision/{args.model}")
    if args.weights is None:
        teacher = build(pretrained=True).eval()
    else:
        teacher = build(num_classes=args.classes, weights_backbone=None).eval()
        teacher.load_state_dict(torch.load(args.weights, weights_only=True))
    train = loader(*args.train, args.batch_size, training=True)
    val = loader(*args.val, args.batch_size, training=False)

    student = ghostify.convert(teacher, ratio=2)
    print(ghostify.report(student))
    ghostify.calibrate(student, teacher, train, method="least_squares", max_images=64, progress=True)
    recipe = ghostify.Recipe(steps=args.steps, lr=3e-4, optimizer="adamw", temperature=1, labels=1, clip=10)
    ghostify.distill(student, teacher, train, recipe=recipe, out=args.out, resume=args.out.exists(), progress=True)
    for name, model in (("teacher", teacher), ("student", student)):
        print(f"{name}: {ghostify.evaluate(model, val, progress=True)}")


if __name__ == "__main__":
    main()
