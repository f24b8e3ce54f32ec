"""What a network uses more than once."""

import types

import pytest
import torch
from torch import nn

import ghostify
from ghostify.graph.network_spans import find_network_spans


class Compared(nn.Module):
    """Two pictures through one embedding, with a head of their own."""

    def __init__(self):
        super().__init__()
        trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
        self.embed = nn.ModuleDict({"trunk": trunk, "project": nn.Conv2d(16, 12, 1)})
        self.judge = nn.Sequential(nn.Conv2d(24, 16, 3), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, left, right):
        pair = [self.embed["project"](self.embed["trunk"](x)) for x in (left, right)]
        return self.judge(torch.cat(pair, 1))


def test_a_network_that_runs_an_encoder_twice_is_pointed_to_it():
    student = ghostify.convert(Compared().eval(), 2)
    skipped = ghostify.report(student).skipped
    reason = "shared weights: called 2 times, as all of 'embed' is: convert that by itself"
    assert skipped[reason] == ["embed.trunk.0", "embed.trunk.2", "embed.project"]
    x = torch.randn(2, 3, 12, 12)
    student.embed["trunk"] = ghostify.convert(student.embed["trunk"], 2)
    with torch.no_grad():
        assert student(x, x).shape == (2, 1, 6, 6)


def test_a_network_of_an_encoder_alone_is_pointed_to_it():
    class Distance(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

        def forward(self, a, b):
            return (self.encoder(a) - self.encoder(b)).abs().mean((1, 2, 3))

    with pytest.raises(ghostify.UnsupportedModelError, match="as all of 'encoder' is: convert that by itself"):
        ghostify.convert(Distance(), 2)


def test_a_single_layer_that_is_called_twice_has_nothing_around_it():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.b(self.b(self.a(x)))

    with pytest.raises(ghostify.UnsupportedModelError, match=r"\(shared weights: called 2 times\)"):
        ghostify.convert(Twice(), 2)


def test_a_layer_with_a_forward_of_its_own_stays_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
    network.eval()
    network[1].forward = types.MethodType(lambda layer, x: 2 * nn.Conv2d.forward(layer, x), network[1])
    network[2].forward = lambda x: x + 1
    student = ghostify.convert(network, 2)
    reasons = {row.name: row.reason for row in ghostify.report(student).rows}
    assert reasons["1"] == "has a forward method of its own, which would be lost"
    assert reasons["3"] is None
    assert all(span.reason for span in find_network_spans(network) if span.makers[0] in ("0", "1"))
