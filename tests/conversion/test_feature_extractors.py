"""Networks with one graph for training and one for evaluation, as torchvision's create_feature_extractor makes them."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import ghostify
from ghostify.graph.network_spans import find_network_spans


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.conv1, self.norm1, self.act1 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.conv2, self.norm2, self.act2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.conv3, self.drop = nn.Conv2d(16, 24, 3, padding=1), nn.Dropout(0.5)

    def forward(self, x):
        x = self.act1(self.norm1(self.conv1(self.stem(x))))
        x = self.act2(self.norm2(self.conv2(x)))
        return self.drop(self.conv3(x).relu())


def extractor(**nodes) -> nn.Module:
    torch.manual_seed(0)
    return create_feature_extractor(Small(), **(nodes or {"return_nodes": ["act1", "drop"]}))


class Around(nn.Module):
    """An extractor as the backbone of a network."""

    def __init__(self):
        super().__init__()
        self.backbone = extractor(train_return_nodes=["act1", "drop"], eval_return_nodes=["drop"])
        self.head = nn.Conv2d(24, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x)["drop"])


def outputs(network, x):
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("cheap", ["depthwise", "absorbed"])
def test_both_graphs_of_a_student_run(cheap, inplace, trains):
    network = extractor().train(trains)
    names = [name for name, _ in network.named_modules()]
    student = ghostify.convert(network, 2, cheap=cheap, inplace=inplace)
    assert all(module.training is trains for module in student.modules())
    assert inplace or all(network.get_submodule(name).training is trains for name in names)
    graphs = {False: student.eval_graph, True: student.train_graph}
    for mode in (True, False, True):
        assert student.train(mode).graph is graphs[mode]
        assert {name: tuple(maps.shape) for name, maps in outputs(student, torch.randn(2, 3, 16, 16)).items()} == {
            "act1": (2, 16, 8, 8),
            "drop": (2, 24, 8, 8),
        }
    student.train()
    assert not torch.equal(*(outputs(student, torch.ones(1, 3, 16, 16))["drop"] for _ in range(2))), "it drops maps"
    assert len(ghostify.report(student, (1, 3, 16, 16)).converted) >= 2


def test_an_extractor_is_calibrated_folded_saved_and_loaded(tmp_path):
    teacher, x = extractor().eval(), torch.randn(40, 3, 16, 16)
    student = ghostify.convert(teacher, 2)
    before = (outputs(student, x)["drop"] - outputs(teacher, x)["drop"]).norm()
    ghostify.calibrate(student, teacher, x, method="least_squares")
    assert (outputs(student, x)["drop"] - outputs(teacher, x)["drop"]).norm() < before
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", extractor)
    assert not loaded.training
    for network in (loaded, copy.deepcopy(student).eval(), ghostify.fold(student)):
        for name, maps in outputs(student, x).items():
            torch.testing.assert_close(outputs(network, x)[name], maps, atol=1e-5, rtol=1e-4)


def test_what_training_alone_returns_stays_as_it_is():
    nodes = {"train_return_nodes": ["conv1", "norm2", "drop"], "eval_return_nodes": ["drop"]}
    network, x = extractor(**nodes).eval(), torch.randn(4, 3, 16, 16)
    student = ghostify.convert(network, 2)
    kept = {"norm1", "act1", "act2"}
    assert {name for name, layer in student.named_children() if isinstance(layer, (nn.BatchNorm2d, nn.ReLU))} == kept
    assert outputs(student.train(), x)["conv1"].shape == (4, 16, 8, 8)
    reasons = {span.makers[0]: span.reason for span in find_network_spans(network)}
    assert reasons["conv2"] == "heads that are called only in training may read its maps"
    assert {name for name, reason in reasons.items() if not reason} == {"stem.0"}


def test_an_extractor_inside_of_a_network_keeps_both_graphs():
    network, x = Around().eval(), torch.randn(4, 3, 16, 16)
    student = ghostify.convert(network.train(), 2)
    assert student.backbone.graph is student.backbone.train_graph
    assert set(outputs(student.backbone, x)) == {"act1", "drop"}
    assert set(outputs(student.eval().backbone, x)) == {"drop"}
    assert outputs(student, x).shape == (4, 2, 8, 8)


@pytest.mark.slow
def test_torchvisions_own_extractors():
    network = create_feature_extractor(torchvision.models.mobilenet_v3_large(), {"features.6": "mid", "features.16": "end"})
    student, x = ghostify.convert(network.eval(), 2), torch.randn(1, 3, 64, 64)
    assert {name: maps.shape for name, maps in outputs(student, x).items()} == {
        name: maps.shape for name, maps in outputs(network, x).items()
    }
