"""Make a classifier that you fine-tuned as small as a drop that you allow lets it be, and write it for ONNX Runtime.

    python examples/compress_classifier.py --model resnet18 --weights fine_tuned.pth --pictures DIR --out small.onnx

DIR has a folder of pictures for each class, in the order of the classifier's, none of which it was trained on: 256 of them,
without their labels, make the student, and all others judge it. One point of top-1 takes 568 that judge at least.
"""

import argparse
from pathlib import Path

import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import ImageFolder

import ghostify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="timm's name of the network")
    parser.add_argument("--weights", type=Path, required=True, help="its state_dict, by torch.save")
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR")
    parser.add_argument("--max-drop", type=float, default=0.01, help="that is allowed; 0.01 is one point")
    parser.add_argument("--run", type=Path, default=Path("compression"), help="folder of each step; the same call goes on")
    parser.add_argument("--out", type=Path, default=Path("small.onnx"))
    args = parser.parse_args()

    pictures = ImageFolder(args.pictures)
    model = timm.create_model(args.model, num_classes=len(pictures.classes)).eval()
    model.load_state_dict(torch.load(args.weights, weights_only=True, map_location="cpu"))
    pictures.transform = create_transform(**resolve_data_config({}, model=model))
    few = min(256, len(pictures) // 2)
    parts = random_split(pictures, [few, len(pictures) - few], torch.Generator().manual_seed(0))
    images, val = (DataLoader(part, batch_size=32) for part in parts)

    result = ghostify.compress(
        model, images, max_drop=args.max_drop, val=val, runtime="onnxruntime", out=args.run, progress=True
    )
    print(result.report)
    print(result.report.before_and_after())
    print(f"written: {ghostify.export(result.student, args.out)}")


if __name__ == "__main__":
    main()
