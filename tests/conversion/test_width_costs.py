"""Costs by the widths of spans, against networks that were narrowed."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from ghostify.common.costs import count_params, measure
from ghostify.conversion.layer_seconds import LayerSeconds
from ghostify.conversion.width_costs import width_costs
from ghostify.conversion.width_network import Choice, WidthNetwork
from ghostify.graph.network_spans import find_network_spans
from tests.helpers.spans import narrowed, some


class Odd(nn.Module):
    """A transposed convolution, a PReLU, a flattened map, a concatenation of a map with itself, and groups."""

    def __init__(self):
        super().__init__()
        self.a, self.act = nn.ConvTranspose2d(3, 12, 3, stride=2), nn.PReLU(12)
        self.b, self.one = nn.Conv2d(24, 18, 3, groups=1), nn.PReLU()
        self.c = nn.Conv2d(18, 12, 3, groups=6)
        self.down, self.d, self.e = nn.Conv2d(12, 12, 3, 4, groups=12), nn.Linear(12 * 4, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = self.act(self.a(x))
        x = self.c(self.one(self.b(torch.cat([x, x], 1))))
        return self.e(torch.relu(self.d(self.down(x).flatten(1))))


NETWORKS = {
    "odd": lambda: Odd(),
    "resnet18": lambda: torchvision.models.resnet18(),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 3), 16),
    "squeezenet1_1": lambda: torchvision.models.squeezenet1_1(),
    "convnext_atto": lambda: timm.create_model("convnext_atto"),
    "regnety_002": lambda: timm.create_model("regnety_002"),
    "resnext": lambda: timm.create_model("resnext26ts"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_narrowed_network(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    arguments = (torch.randn(1, 3, *((5, 5) if name == "odd" else (64, 64))),)
    spans = [span for span in find_network_spans(model) if not span.reason]
    chosen = [some(span, 0.3 + 0.5 * (index % 3) / 2, index) for index, span in enumerate(spans)]
    student = narrowed(model, chosen)
    wanted = {"flops": measure(student, arguments).flops, "params": count_params(student)}
    before = {"flops": measure(model, arguments).flops, "params": count_params(model)}
    widths = [[Choice(0, 0, m, m) for m in (span.channels, len(one.kept))] for span, one in zip(spans, chosen, strict=True)]
    for metric in ("flops", "params"):
        costs = width_costs(metric, model, spans, arguments)
        network = WidthNetwork(widths, costs.layers)
        assert costs.total == before[metric]
        assert network.answer([0] * len(spans)).cost == pytest.approx(before[metric], rel=1e-12)
        assert network.answer([1] * len(spans)).cost == pytest.approx(wanted[metric], rel=1e-12)
        assert wanted[metric] < 0.9 * before[metric]


def test_seconds_go_with_the_multiply_adds_of_each_layer():
    """Where every multiply-add takes a nanosecond, and the rest of the network a millisecond."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    spans = [span for span in find_network_spans(model) if not span.reason]
    layers = {"0": 36 * 3 * 8 * 9e-9, "2": 16 * 8 * 16 * 9e-9, "4": 16 * 16 * 4 * 1e-9}
    costs = width_costs("latency", model, spans, (), seconds=LayerSeconds(1e-3 + sum(layers.values()), layers))
    network = WidthNetwork([[Choice(0, 0, span.channels // 2, span.channels // 2)] for span in spans], costs.layers)
    expected = 1e-3 + layers["0"] / 2 + layers["2"] / 4 + layers["4"] / 2
    assert network.answer([0] * len(spans)).cost == pytest.approx(expected)
    scaled = LayerSeconds.within(1e-6, layers)
    assert sum(scaled.layers.values()) == pytest.approx(scaled.total)
