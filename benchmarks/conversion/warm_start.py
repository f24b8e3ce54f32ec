"""Top-1 on CIFAR-10 straight after conversion, by the warm start alone, and with the norms re-estimated.

    python -m benchmarks.conversion.warm_start --data DIR --models FILE

DIR holds cifar10.npz, resnet56_cifar10.safetensors and vgg16_bn_cifar10.safetensors; FILE is the Python file that builds the
two networks. All 10,000 test images; norms are re-estimated on 256 training images, without labels. Writes
results/warm_start.json.
"""

import copy
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import versions
from benchmarks.harness.markdown import percent as as_percent
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import CIFAR, Networks, percent, predict
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "warm_start.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "depthwise": {},
    "pointwise": {"cheap": "pointwise"},
    "auto": {"cheap": "auto"},
    "depthwise, ratio 1.5": {"ratio": 1.5},
}


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


def measured(networks: Networks, network: str, setting: str) -> Row:
    images, labels = networks.cifar("test", slice(None))
    few, _ = networks.cifar("train", slice(256))

    def top1(model: nn.Module) -> float:
        return percent(predict(model, images, 100) == labels)

    teacher = networks.teacher(network)
    student = ghostify.convert(teacher, **SETTINGS[setting])
    report = ghostify.report(student, (1, 3, 32, 32))
    return {
        "model": network,
        "setting": setting,
        "base": percent(networks.answers(network, 0, False) == labels),
        "flops_share": round(report.after.flops / report.before.flops, 4),
        "params_share": round(report.after.params / report.before.params, 4),
        "after_conversion": top1(student),
        "norms_reestimated": top1(reestimate(student, few)),
    }


def main() -> None:
    args = parse(argument_parser(__doc__, "data", "models"))
    networks = Networks(args.data, args.models)
    rows = []
    for network in CIFAR:
        for setting in track(SETTINGS, description=network):
            rows.append(measured(networks, network, setting))
            print(rows[-1])
    write_json(RESULTS, {"about": versions(), "rows": rows})


def tables() -> dict[str, str]:
    scores = ("base", "after_conversion", "norms_reestimated")
    lines = [
        [row["model"], row["setting"], as_percent(row["flops_share"]), *(f"{row[key]:.2f}" for key in scores)]
        for row in read_json(RESULTS)["rows"]
    ]
    header = ["network", "setting (ratio 2)", "FLOPs", "original, %", "converted, %", "norms re-estimated, %"]
    return {"warm_start": table(header, lines)}


if __name__ == "__main__":
    main()
