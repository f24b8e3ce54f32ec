"""Networks that torch.fx cannot follow as a whole."""

import torch
import torchvision
from helpers.conversion import ghosts, stack
from helpers.networks import Residual
from torch import nn

import ghostify


def test_parts_where_the_whole_does_not_trace():
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    student = ghostify.convert(model)
    assert isinstance(student.backbone.features[0][0][0], nn.Conv2d)  # first
    assert len(ghosts(student)) > 20
    with torch.no_grad():
        assert student([torch.rand(3, 320, 320)])[0].keys() == {"boxes", "scores", "labels"}


def test_data_dependent_block_is_opaque_and_the_rest_still_traces():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())

        def forward(self, x):
            return self.body(x) if x.sum() > 0 else x

    model = stack(nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), Gate(), nn.Conv2d(32, 32, 3), nn.ReLU())
    assert set(ghosts(ghostify.convert(model))) == {"1", "3.body.0", "4"}


def test_convolutions_right_under_a_model_that_does_not_trace():
    class Net(Residual):
        def forward(self, x):
            return super().forward(x * 2 if x.sum() > 0 else x)

    assert set(ghosts(ghostify.convert(Net()))) == {"conv1", "conv2"}


def test_heads_that_only_training_uses_are_found():
    model = torchvision.models.googlenet(init_weights=False)
    student = ghostify.convert(model)
    assert {"aux1.conv.conv", "aux2.conv.conv"} <= set(ghosts(student))
    outputs = student.train()(torch.randn(2, 3, 96, 96))
    assert outputs.aux_logits1.shape == (2, 1000)


def test_what_comes_first_in_a_head_is_not_first_where_nothing_around_traces():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
            self.scores = nn.Conv2d(32, 16, 1)

        def forward(self, maps):
            return [self.scores(self.conv(one)) for one in maps]

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.classes, self.boxes = Branch(), Branch()

        def forward(self, maps):
            return self.classes(maps), self.boxes(maps)

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = stack(nn.Conv2d(32, 32, 3)), Head()

        def forward(self, scenes):
            maps = self.backbone(torch.stack([scene * 2 for scene in scenes]))
            return self.head([maps, maps[..., ::2, ::2]])

    scenes = ([torch.rand(3, 16, 16)],)
    report = ghostify.report(ghostify.convert(Detector(), example_input=scenes), scenes)
    kept = {row.name: row.reason for row in report.rows if row.reason}
    assert list(kept) == ["backbone.0"]
    assert kept["backbone.0"].startswith("first convolution")
    assert report.verified
