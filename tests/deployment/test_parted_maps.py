"""Intrinsic and ghost maps stay apart as far as they can."""

import pytest
import torch
from helpers.folding import assert_same, student_of
from torch import nn

import ghostify
from ghostify.deployment.fold import for_inference
from ghostify.deployment.parted_maps import PartedMaps


class Tail(nn.Module):
    """Two Ghost modules, and what a test does with their maps."""

    def __init__(self, tail, **layers):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        for name in "ab":
            setattr(self, name, nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)))
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.tail, self.last = tail, nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.last(self.tail(self, self.a(x), self.b(x)))


def gated(net, a, b):
    return a * torch.sigmoid(net.expand(torch.relu(net.squeeze(a.mean((2, 3), keepdim=True)))))


def changed_in_place(net, a, b):
    c = a + b
    d = torch.relu_(c)
    return d + torch.sigmoid(c)  # of what relu_ left


TAILS = {
    "sum": (lambda net, a, b: torch.relu(a + b), {}, 0),
    "three uses": (lambda net, a, b: torch.relu(a + b) * a - b, {}, 0),
    "number": (lambda net, a, b: (2 * a + b / 3).clamp(0, 1), {}, 0),
    "pools": (lambda net, a, b: net.pool(a) + torch.nn.functional.avg_pool2d(b, 2), {"pool": nn.MaxPool2d(2)}, 0),
    "norm": (lambda net, a, b: torch.relu(net.norm(a + b)), {"norm": nn.BatchNorm2d(16)}, 0),
    "prelu": (lambda net, a, b: net.act(a) + net.act(b), {"act": nn.PReLU(16)}, 2),
    "prelu of a sum": (lambda net, a, b: net.act(a + b), {"act": nn.PReLU(16)}, 0),
    "depthwise": (lambda net, a, b: net.dw(a) + b, {"dw": nn.Conv2d(16, 16, 3, padding=1, groups=16)}, 0),
    "grouped": (lambda net, a, b: net.group(a + b), {"group": nn.Conv2d(16, 16, 3, padding=1, groups=4)}, 1),
    "gate": (gated, {"squeeze": nn.Conv2d(16, 4, 1), "expand": nn.Conv2d(4, 16, 1)}, 1),
    "with another tensor": (lambda net, a, b: a + b.new_ones(1, 16, 1, 1), {}, 2),
    "in place": (lambda net, a, b: a.add_(b).relu_(), {}, 0),
    "in place, read later": (changed_in_place, {}, 1),
    "in place, whole read later": (
        lambda net, a, b: (c := a + b).tanh_() + net.group(c),
        {"group": nn.Conv2d(16, 16, 3, padding=1, groups=4)},
        1,
    ),
    "joined in another dimension": (lambda net, a, b: torch.cat([a, b], dim=2), {}, 2),
    "indices": (lambda net, a, b: net.pool(a)[0] + net.pool(b)[0], {"pool": nn.MaxPool2d(2, return_indices=True)}, 2),
}


@pytest.mark.parametrize("name", TAILS)
def test_maps_stay_apart_as_far_as_they_can(name):
    """What runs on the parts gives what the whole gives; so many concatenations remain."""
    tail, layers, remaining = TAILS[name]
    # drawn at random, channels stand as they are made, so that both terms of a sum are parted alike
    student = student_of(Tail(tail, **layers), init="random", ratios={"*": None, "[ab].*": 2})
    folded = ghostify.fold(student)
    assert_same(student, folded)
    assert sum(isinstance(module, PartedMaps) for module in folded.modules()) == remaining


def test_a_concatenation_of_ghosts_is_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 24, 1)
            self.last = nn.Conv2d(56, 8, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.last(torch.cat([self.a(x), x, self.b(x)], 1))

    student = student_of(Net(), init="random", skip=("first",))
    folded = ghostify.fold(student)
    assert_same(student, folded)
    (cat,) = [node for node in folded.graph.nodes if node.target is torch.cat]
    assert len(cat.args[0]) == 5
    assert {name for name, module in folded.named_modules() if isinstance(module, PartedMaps)} == {"last.joined"}


def test_convolutions_are_whole_where_sums_are_rounded():
    student = student_of(Tail(lambda net, a, b: torch.relu(a + b)), init="random", ratios={"*": None, "[ab].*": 2})
    folded = for_inference(student, True, split=False)
    assert_same(student, folded)
    assert [name for name, module in folded.named_modules() if isinstance(module, PartedMaps)] == ["relu.joined"]
    assert folded.last.in_channels == 16
