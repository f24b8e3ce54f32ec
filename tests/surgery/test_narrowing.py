import pytest
import timm
import torch
import torchvision
from helpers.networks import Gated, Upwards, randomize
from helpers.spans import narrowed, some, with_zeros
from torch import nn

import ghostify
from ghostify import ArgumentError
from ghostify.graph.network_spans import find_network_spans
from ghostify.surgery.narrowing import NarrowedSpan


def odd_gated() -> Gated:
    """A gate of an odd number of maps, and a bias behind the concatenation."""
    return Gated(squeezed=5, bias=True)


class Line(nn.Module):
    """Maps of one and of three dimensions."""

    def __init__(self, dims: int):
        super().__init__()
        conv, norm = [(nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)][dims - 1]
        self.a, self.norm, self.b, self.c = conv(2, 8, 3), norm(8), conv(8, 6, 3), conv(6, 4, 1)

    def forward(self, x):
        return self.c(self.b(self.norm(self.a(x)).relu()).tanh())


class Joined(nn.Module):
    """Norms without parameters, and a depthwise convolution that carries the maps of two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3, padding=1), nn.InstanceNorm2d(16)
        self.depthwise, self.c = nn.Conv2d(40, 40, 3, groups=40), nn.Conv2d(40, 5, 1)

    def forward(self, x):
        x = self.norm(self.a(x)).relu()
        return self.c(self.depthwise(torch.cat([x, self.b(x)], 1)).relu())


def outputs(model, x):
    with torch.no_grad():
        return model.double().eval()(x.double())


NETWORKS = {
    "gated": (odd_gated, (3, 6, 6)), "1d": (lambda: Line(1), (2, 12)), "3d": (lambda: Line(3), (2, 7, 7, 7)),
    "joined": (Joined, (3, 8, 8)), "upwards": (Upwards, (3, 8, 8)), "upwards 3d": (lambda: Upwards(3), (3, 4, 4, 4)),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 32, 32)),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), (3, 32, 32)),
    "regnety": (lambda: timm.create_model("regnety_002", num_classes=10), (3, 32, 32)),
    "squeezenet": (lambda: torchvision.models.squeezenet1_1(num_classes=10), (3, 64, 64)),
    "mlp of a vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), (3, 32, 32)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_narrowed_network_computes_what_the_original_does_without_those_channels(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = randomize(build()).eval()
    chosen = [some(span) for span in find_network_spans(model) if not span.reason]
    assert chosen
    x = torch.randn(2, *shape)
    student, zeros = narrowed(model, chosen), with_zeros(model, chosen)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    wanted = outputs(zeros, x)
    assert float((outputs(student, x) - wanted).abs().max()) <= 1e-12 * float(wanted.abs().max())
    if name != "mlp of a vit":  # whose residual stream hides small changes
        assert float((outputs(model, x) - wanted).norm()) > 1e-3 * float(wanted.norm())


@pytest.mark.parametrize("name", ["gated", "regnety", "mobilenet_v3"])
def test_with_all_channels_kept_nothing_changes_in_a_bit(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = randomize(build()).eval()
    chosen = [some(span, 1.0) for span in find_network_spans(model) if not span.reason]
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(narrowed(model, chosen)(x), model(x))


def test_layers_keep_class_layout_and_flags():
    model = odd_gated().to(memory_format=torch.channels_last)
    model.grouped.weight.requires_grad_(False)
    student = narrowed(model, [some(span) for span in find_network_spans(model) if not span.reason])
    assert [type(module) for module in student.modules()] == [type(module) for module in model.modules()]
    assert student.side.weight.is_contiguous(memory_format=torch.channels_last)
    assert not student.grouped.weight.requires_grad
    assert student.mix.weight.requires_grad
    assert student.depthwise.groups == student.depthwise.in_channels == 6


def test_what_can_not_be_kept_is_refused():
    spans = find_network_spans(odd_gated())
    grouped = next(span for span in spans if span.groups == 2 and not span.reason)
    with pytest.raises(ArgumentError, match="equally many channels of its 2 groups"):
        NarrowedSpan(grouped, torch.tensor([0, 1, grouped.channels - 1]))
    with pytest.raises(ArgumentError, match="must keep some of its"):
        NarrowedSpan(grouped, torch.tensor([], dtype=torch.long))
    with pytest.raises(ArgumentError, match="an output"):
        some(next(span for span in spans if "output" in span.reason))


@torch.no_grad()
def test_maps_that_norms_without_parameters_and_joint_convolutions_carry_are_absorbed(tmp_path):
    torch.manual_seed(0)
    model = randomize(Joined()).eval()
    student = ghostify.convert(model, cheap="absorbed", skip=())
    assert student.norm.num_features == student.a.out_channels == 8
    assert student.depthwise.groups == student.c.in_channels == student.a.out_channels + student.b.out_channels
    x = torch.randn(8, 3, 9, 9)
    assert torch.isfinite(student(x)).all()
    assert not ghostify.calibrate(student, model, x, method="least_squares").kept
    ghostify.save(student, tmp_path / "student.safetensors")
    assert torch.equal(ghostify.load(tmp_path / "student.safetensors", Joined)(x), student.eval()(x))
