"""Settings of convert(): ratios, channels, the cheap operation, fully connected layers."""

import pytest
import torch
import torchvision
from helpers.conversion import ghosts, stack
from torch import nn

import ghostify
from ghostify import ArgumentError, ReducedLinear


def test_ratios_by_glob():
    model = ghostify.create_model("torchvision/resnet18", device="meta")
    student = ghostify.convert(model, 2, ratios={"layer4.*": 4, "layer*.conv2": 3, "layer1.0.conv1": None})
    found = {row.name: row.ratio for row in ghostify.report(student).rows}
    assert found["layer4.0.conv1"] == 4
    assert found["layer4.0.conv2"] == 3  # the last match wins
    assert found["layer1.0.conv1"] is None
    assert found["layer1.1.conv1"] == 2
    with pytest.raises(ArgumentError, match=r"layer9.*close names: .*layer"):
        ghostify.convert(model, ratios={"layer9.0.conv1": 2})


@pytest.mark.parametrize("ratio", [1.5, 2, 3])
def test_round_to(ratio):
    student = ghostify.convert(ghostify.create_model("torchvision/resnet18", device="meta"), ratio, round_to=8)
    assert all(g.intrinsic_channels % 8 == 0 for g in ghosts(student).values())


def test_min_channels():
    student = ghostify.convert(ghostify.create_model("torchvision/resnet18", device="meta"), min_channels=256)
    assert min(g.out_channels for g in ghosts(student).values()) == 256


def test_cheap_auto_chooses_by_kernel():
    student = ghostify.convert(ghostify.create_model("torchvision/resnet50", device="meta"), cheap="auto")
    assert student.layer2[1].conv2.cheap == "pointwise"
    assert student.layer2[1].conv3.cheap == "depthwise"


def test_linear_ratio_keeps_the_last_layer():
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    student = ghostify.convert(model, linear_ratio=4)
    assert isinstance(student.classifier[0], ReducedLinear)
    assert isinstance(student.classifier[3], ReducedLinear)
    assert isinstance(student.classifier[6], nn.Linear)
    before = 25088 * 4096
    assert sum(p.numel() for p in student.classifier[0].parameters()) == pytest.approx(before / 4, rel=0.01)
    named = ghostify.convert(model, linear_ratio=4, ratios={"classifier.6": 3})
    assert isinstance(named.classifier[6], ReducedLinear)


def test_linear_alone_and_without_linear_ratio():
    layers = [
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 9),
    ]
    student = ghostify.convert(stack(nn.Conv2d(32, 32, 3), nn.ReLU(), *layers), ratios={"5": 8})
    assert isinstance(student[5], ReducedLinear)
    assert isinstance(student[7], nn.Linear)
    assert isinstance(student[9], nn.Linear)
