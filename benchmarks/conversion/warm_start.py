"""Top-1 on CIFAR-10 straight after conversion, by the warm start alone, and with the norms re-estimated.

    python -m benchmarks.conversion.warm_start --data DIR --models FILE

DIR holds cifar10.npz, resnet56_cifar10.safetensors and vgg16_bn_cifar10.safetensors; FILE is the Python file that builds the
two networks. All 10,000 test images; norms are re-estimated on 256 training images, without labels.
"""

import argparse
import copy
import importlib.util
import json
import platform
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

import ghostify
from ghostify.students.weights import load_weights

RESULTS = Path(__file__).parents[1] / "results"
SETTINGS = {
    "depthwise": {},
    "pointwise": {"cheap": "pointwise"},
    "auto": {"cheap": "auto"},
    "depthwise, ratio 1.5": {"ratio": 1.5},
}


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in zip(images.split(100), labels.split(100), strict=True))
    return round(100 * hits / len(labels), 2)


@torch.no_grad()
def reestimate(model: nn.Module, images: Tensor) -> nn.Module:
    """Batch-norm statistics as the average over a few batches; dropout stays off."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    for batch in images.split(128):
        model(batch)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("cifar_models", args.models)
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    data = np.load(args.data / "cifar10.npz")
    images = torch.tensor(data["x_test"]).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor(data["y_test"])
    few = torch.tensor(data["x_train"][:256]).permute(0, 3, 1, 2).float() / 255
    rows = []
    for name in ("resnet56", "vgg16_bn"):
        teacher = getattr(builders, name)()
        load_weights(teacher, args.data / f"{name}_cifar10.safetensors")
        base = accuracy(teacher.eval(), images, labels)
        for setting, options in track(SETTINGS.items(), description=name):
            student = ghostify.convert(teacher, **options)
            report = ghostify.report(student, (1, 3, 32, 32))
            rows.append(
                {
                    "model": name,
                    "setting": setting,
                    "base": base,
                    "flops_share": round(report.after.flops / report.before.flops, 4),
                    "params_share": round(report.after.params / report.before.params, 4),
                    "after_conversion": accuracy(student, images, labels),
                    "norms_reestimated": accuracy(reestimate(student, few), images, labels),
                }
            )
            print(rows[-1])
    about = {"torch": torch.__version__, "ghostify": ghostify.__version__, "python": platform.python_version()}
    (RESULTS / "warm_start.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
