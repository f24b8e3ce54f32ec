"""The GhostNet paper's arithmetic on its networks: all convolutions but the first, d = 3.

    python -m benchmarks.conversion.paper --models FILE

FILE is the Python file that builds the CIFAR-10 networks, resnet56() and vgg16_bn(). Writes results/paper.json.
"""

import torch

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import cifar_builders
from benchmarks.harness.results import read_json, write_json

RESULTS = "paper.json"


def main() -> None:
    args = parse(argument_parser(__doc__, "models"))
    builders = cifar_builders(args.models)
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
    write_json(RESULTS, {"rows": rows})


def tables() -> dict[str, str]:
    lines = [
        [
            row["model"],
            str(row["ratio"]),
            f"{row['params_before'] / 1e6:.2f} → {row['params_after'] / 1e6:.2f} M",
            f"{row['flops_before'] / 1e6:,.1f} → {row['flops_after'] / 1e6:,.1f} M",
        ]
        for row in read_json(RESULTS)["rows"]
    ]
    return {"paper": table(["network", "ratio", "params", "FLOPs"], lines)}


if __name__ == "__main__":
    main()
