"""Hashes of what conversion, calibration and folding make of sixteen networks, to compare two versions of ghostify bit for bit.

    python benchmarks/fingerprints.py write before.json     # with the one version
    python benchmarks/fingerprints.py compare before.json   # with the other, on the same machine

Weights are random and the norms' statistics vary from channel to channel; inputs are small. A hash covers names, types, shapes
and bytes of all tensors. torch runs on one thread, since sums in another order are rounded otherwise.
"""

import argparse
import copy
import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify

CHEAP = ("depthwise", "absorbed", "pointwise", "auto")
IMAGES = 24
NETWORKS = {
    "torchvision/resnet18": 64, "torchvision/resnet50": 64, "torchvision/vgg11_bn": 64, "torchvision/densenet121": 64,
    "torchvision/mobilenet_v2": 64, "timm/efficientnet_b0": 64, "timm/regnety_002": 64, "timm/resnetv2_50": 64,
    "timm/convnext_atto": 64, "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn": 128,
    "torchvision/lraspp_mobilenet_v3_large": 64, "own": 32, "torchvision/deeplabv3_resnet50": 64,
    "torchvision/inception_v3": 96, "torchvision/raft_small": 128, "timm/swin_tiny_patch4_window7_224": 224,
}  # fmt: skip


class Own(nn.Module):
    """Groups, a norm before its convolution, a sum, a concatenation and functions in place of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=4, bias=False)
        self.grouped_norm = nn.BatchNorm2d(24)
        self.side = nn.Conv2d(24, 20, 1)
        self.last = nn.Conv2d(44, 32, 3, stride=2, padding=1, bias=False)
        self.last_norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.grouped_norm(self.grouped(torch.relu(self.norm(x)))) + x
        y = torch.cat([nn.functional.silu(y), self.side(y).sigmoid()], 1)
        return self.head(torch.relu(self.last_norm(self.last(y))).mean((2, 3)))


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "own":
        model: nn.Module = Own()
    else:
        more = {"weights_backbone": None} if "rcnn" in name else {}
        model = ghostify.create_model(name, **({} if "raft" in name else {"num_classes": 10}), **more)
    if "mobilenet_v3" in name or "resnetv2" in name:  # filters so small that the images seem to be of another range
        next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight.data *= 16
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors = ((module.weight, 0.2, 1.5), (module.bias, -0.5, 0.5), (module.running_mean, -0.5, 0.5))
            for tensor, low, high in (*tensors, (module.running_var, 0.3, 2.0)):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model.eval()


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from tensors(part, f"{name}.{key}")
    elif isinstance(value, Sequence):
        for key, part in enumerate(value):
            yield from tensors(part, f"{name}.{key}")


def digest(value: Any) -> str:
    made = hashlib.sha256()
    for name, tensor in tensors(value):
        tensor = tensor.detach().cpu().contiguous()
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        made.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()[:16]


def fingerprints(name: str, size: int, cheap: str) -> Iterator[tuple[str, str]]:
    """What was made, and its hash; of what is refused, the word."""
    model = build(name)
    images = torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(2))
    detector = "rcnn" in name
    batches: Any = [[list(part)] for part in images.split(8)] if detector else images
    few: Any = (list(images[:2]),) if detector else (images[:2],) * (2 if "raft" in name else 1)
    made = ""
    try:
        made = "convert"
        student = ghostify.convert(model, ratio=2, cheap=cheap)
        yield f"{name} {cheap} convert", digest(student.state_dict())
        made = "convert, fold"
        with torch.no_grad():
            yield f"{name} {cheap} convert, fold", digest(ghostify.fold(student)(*copy.deepcopy(few)))
        made = "calibrate"
        ghostify.calibrate(student, model, batches, method="least_squares")
        yield f"{name} {cheap} calibrate", digest(student.state_dict())
        made = "calibrate, fold"
        with torch.no_grad():
            yield f"{name} {cheap} calibrate, fold", digest(ghostify.fold(student)(*copy.deepcopy(few)))
    except ghostify.GhostifyError:
        yield f"{name} {cheap} {made}", "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="by default all of them")
    parser.add_argument("--cheap", nargs="+", choices=CHEAP, default=list(CHEAP), help="by default all of them")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = json.loads(options.file.read_text()) if options.action == "compare" else {}
    made: dict[str, str] = {}
    wrong = 0
    for name, cheap in ((name, cheap) for cheap in options.cheap for name in options.networks):
        for what, value in fingerprints(name, NETWORKS[name], cheap):
            made[what] = value
            same = options.action == "write" or known.get(what) == value
            wrong += not same
            print(f"{what:75s} {value} {'' if options.action == 'write' else 'equal' if same else 'DIFFERENT'}", flush=True)
    if options.action == "write":
        options.file.write_text(json.dumps(made, indent=1) + "\n")
    else:
        asked = {what for what in known if what.split()[0] in options.networks and what.split()[1] in options.cheap}
        missing = asked - made.keys()
        print(f"{len(made) - wrong} of {len(made)} equal; {len(missing)} of the earlier ones are missing")
        sys.exit(bool(wrong or missing))


if __name__ == "__main__":
    main()
