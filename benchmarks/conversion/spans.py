"""Find the spans of every model of timm and torchvision, and write what of its FLOPs they reach to results/spans.csv.

    python -m benchmarks.conversion.spans       # all, one process; run again to go on where it stopped
    python -m benchmarks.conversion.spans --only 'timm/resnet*' --out /tmp/spans.csv

A layer is reached if it makes or reads a free span: absorbed ghosts make it narrower. The shares are of multiply-adds: those of
dense convolutions (the first convolution and depthwise ones aside) and those of the whole network (fully connected layers and
attention are a part of it). Every dense convolution that is not reached has its reason, with its share: that of the span that
it makes. Layers are named by their classes there, so that the reasons of networks can be compared. No model is run on values,
unless its code needs them.
"""

import json
import logging
import re
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.every_model import Row, build, family_of, fill, is_mostly_convolution
from benchmarks.harness.markdown import percent, table
from benchmarks.harness.results import RESULTS, read_csv
from ghostify.common.costs import Costs, measure
from ghostify.graph.find_sites import find_sites, trace_layers
from ghostify.graph.network_spans import find_network_spans
from ghostify.graph.sites import DEPTHWISE
from ghostify.graph.spans import Span
from ghostify.inputs.examples import example_input


@dataclass
class Outcome:
    """A row of the table.

    Attributes:
        model: its name.
        reason: an error; empty where all went well.
        mostly_convolution: whether most of its parameters stand in convolutions.
        spans, free: how many spans it has, and how many of those are free.
        convolutions: share of the FLOPs of dense convolutions, the first aside, that free spans reach; None without any.
        network: share of all FLOPs that they reach.
        barred: why the other dense convolutions are not reached, with their shares; JSON.
        flops: multiply-adds of the network.
        seconds: that this took.
    """

    model: str
    reason: str = ""
    mostly_convolution: bool | None = None
    spans: int = 0
    free: int = 0
    convolutions: float | None = None
    network: float | None = None
    barred: str = ""
    flops: int | None = None
    seconds: float = 0.0


def examine(name: str) -> Outcome:
    """The spans of one model, and what they reach."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    outcome = Outcome(name)
    try:
        model, meta = build(name)
        outcome.mostly_convolution = is_mostly_convolution(model)
        count(model, costs_of(name, model, meta), outcome)
    except Exception as error:  # the row records whatever happened
        outcome.reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        logging.debug("%s", traceback.format_exc())
    outcome.seconds = round(time.perf_counter() - start, 2)
    return outcome


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    """The layers whose FLOPs are their weight at every position."""
    return {name: m for name, m in model.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear))}


def costs_of(name: str, model: nn.Module, meta: bool) -> Costs:
    arguments = example_input(model)
    assert arguments is not None
    try:
        return measure(model, arguments, list(weighted(model)))
    except ghostify.ArgumentError:
        if not meta:
            raise
        model = ghostify.create_model(name).eval()  # its forward needs values: once more with some
        return measure(model, arguments, list(weighted(model)))


def count(model: nn.Module, costs: Costs, outcome: Outcome) -> None:
    """Write into the outcome what the spans of a model reach."""
    parts = trace_layers(model)
    spans, sites = find_network_spans(model, parts), find_sites(model, parts)
    layers = weighted(model)
    flops = {name: costs.positions.get(name, 0) * layer.weight.numel() for name, layer in layers.items()}
    aside = {site.name for site in sites if "first" in site.roles or site.reason == DEPTHWISE}
    dense = {n: flops[n] for n, m in layers.items() if isinstance(m, nn.modules.conv._ConvNd) and n not in aside}
    free = [span for span in spans if not span.reason]
    reached = {target for span in free for target in (*span.makers, *(use.target for use in span.readers))}
    outcome.spans, outcome.free, outcome.flops = len(spans), len(free), costs.flops
    total = sum(dense.values())
    if total:
        outcome.convolutions = round(sum(dense[name] for name in dense.keys() & reached) / total, 4)
    outcome.network = round(sum(flops[name] for name in flops.keys() & reached) / max(costs.flops, 1), 4)
    shares: Counter[str] = Counter()
    for name in dense.keys() - reached:
        shares[why(name, layers[name], spans, dict(model.named_modules()))] += dense[name]
    outcome.barred = json.dumps({reason: round(share / total, 4) for reason, share in shares.most_common() if share})


def why(name: str, layer: nn.Module, spans: Iterable[Span], modules: Mapping[str, nn.Module]) -> str:
    """Why a layer is not reached: the reason of the span that it makes, with classes for the names of layers."""
    reason = next((span.reason for span in spans if name in span.makers), f"no span is made by a {type(layer).__name__}")

    def without_name(word: re.Match[str]) -> str:
        return type(modules[word[0]]).__name__ if word[0] in modules else word[0].rpartition(".")[2]

    return re.sub(r"^[\w.]+|(?<= of )[\w.]+(?= reads| combines| joins)|(?<= parameter )[\w.]+", without_name, reason)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", default="*", help="glob over names such as timm/resnet*")
    parser.add_argument("--out", type=Path, default=RESULTS / "spans.csv")
    parser.add_argument("--workers", type=int, default=1)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    names = [name for name in ghostify.list_models() if fnmatchcase(name, args.only)]
    print(*summary(fill(names, args.out, examine, Outcome, args.workers)), sep="\n")


def summary(rows: list[Row]) -> list[str]:
    """What a run came to: errors, and the reasons over all networks that are mostly convolutions."""
    errors, networks = [row for row in rows if row["reason"]], [row for row in rows if is_network(row)]
    lines = [f"{len(rows)} models, {len(errors)} errors, {len(networks)} mostly convolutions"]
    lines += [f"  error: {row['model']} {row['reason']}" for row in errors]
    if networks:
        shares = [float(row["convolutions"]) for row in networks]
        lines.append(f"of those a mean of {statistics.mean(shares):.1%} reached, a median of {statistics.median(shares):.1%}")
    lines += [f"  {share / len(networks):.2%} {reason}" for reason, share in reasons(networks).most_common(40)]
    return [*lines, f"{sum(float(row['seconds']) for row in rows) / 60:.1f} minutes of work in all"]


def is_network(row: Row) -> bool:
    """Whether a model is mostly convolutions, and has dense ones after the first."""
    return row["mostly_convolution"] == "True" and bool(row["convolutions"])


def reasons(rows: Iterable[Row]) -> Counter[str]:
    """Sums of the shares of each reason."""
    shares: Counter[str] = Counter()
    for row in rows:
        shares.update(json.loads(row["barred"] or "{}"))
    return shares


# files of timm and torchvision, whose models are told together; the library's name and "quantization." aside
GROUPS = {
    "ResNets": "resnet senet res2net resnest sknet tresnet video.resnet",
    "MobileNets and EfficientNets": "efficientnet mobilenetv2 mobilenetv3 mnasnet hardcorenas rexnet lcnetv2",
    "RegNets": "regnet",
    "DenseNets": "densenet rdnet",
    "VGGs, AlexNet and SqueezeNets": "vgg alexnet squeezenet",
    "VoVNets, HGNets, HRNets and DLAs": "vovnet hgnet hrnet dla",
    "Inceptions and Xceptions": "inception googlenet inception_v3 inception_v4 inception_resnet_v2 xception xception_aligned",
    "GhostNets and ShuffleNets": "ghostnet repghost shufflenetv2",
    "CSP networks": "cspnet cspnext",
    "RepVGGs, MobileOnes and others of byobnet": "byobnet byoanet",
    "NFNets and BiTs": "nfnet resnetv2",
    "ConvNeXts": "convnext inception_next mambaout",
    "segmentation": "segmentation.deeplabv3 segmentation.fcn segmentation.lraspp",
    "detection": " ".join(
        f"detection.{kind}" for kind in ("faster_rcnn", "fcos", "keypoint_rcnn", "mask_rcnn", "retinanet", "ssd", "ssdlite")
    ),
}
OTHERS, TRANSFORMERS = "other convolutional networks", "transformers, mixers and hybrids"


def group_of(row: Row) -> str:
    """The line of the table that a model belongs to."""
    family = family_of(row["model"]).partition("/")[2].removeprefix("quantization.")
    default = OTHERS if is_network(row) else TRANSFORMERS
    return next((group for group, families in GROUPS.items() if family in families.split()), default)


def tables() -> dict[str, str]:
    rows = [row for row in read_csv(RESULTS / "spans.csv") if not row["reason"]]
    by_group: dict[str, list[Row]] = {group: [] for group in (*GROUPS, OTHERS, TRANSFORMERS)}
    for row in rows:
        by_group[group_of(row)].append(row)
    header = ["networks", "models", "of dense convolutions", "of all FLOPs", "what bars most of the rest"]
    lines = [[group, str(len(members)), *shares(members)] for group, members in by_group.items() if members]
    return {"spans": table(header, lines)}


def shares(rows: list[Row]) -> list[str]:
    """Medians of what is reached, and the reasons that weigh most, with their mean shares of dense convolutions."""
    convolutions = [float(row["convolutions"]) for row in rows if row["convolutions"]]
    worst = reasons(rows).most_common(2)
    return [
        percent(statistics.median(convolutions)) if convolutions else "",
        percent(statistics.median(float(row["network"]) for row in rows)),
        "; ".join(f"{reason} ({percent(share / len(convolutions))})" for reason, share in worst),
    ]


if __name__ == "__main__":
    main()
