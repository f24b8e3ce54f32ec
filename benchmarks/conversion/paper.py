"""The GhostNet paper's arithmetic on its networks: all convolutions but the first, d = 3.

    python -m benchmarks.conversion.paper --models FILE

FILE is the Python file that builds the CIFAR-10 networks, resnet56() and vgg16_bn().
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch

import ghostify

RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("cifar_models", args.models)
    builders = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builders)
    with torch.device("meta"):
        cifar = {"CIFAR-10 VGG-16": builders.vgg16_bn(), "CIFAR-10 ResNet-56": builders.resnet56()}
    cases = [("torchvision ResNet-50", ghostify.create_model("torchvision/resnet50", device="meta"), s, 224) for s in (2, 3, 4)]
    cases += [(name, model, 2, 32) for name, model in cifar.items()]
    rows = []
    for name, model, ratio, size in cases:
        report = ghostify.report(ghostify.convert(model, ratio), (1, 3, size, size))
        row = {"model": name, "ratio": ratio, "params_before": report.before.params, "params_after": report.after.params}
        rows.append({**row, "flops_before": report.before.flops, "flops_after": report.after.flops})
        print(rows[-1])
    (RESULTS / "paper.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
