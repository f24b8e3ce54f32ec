"""What stays dense, and the reason that the report gives."""

import torch
from helpers.conversion import ghosts, reasons, stack
from torch import nn

import ghostify


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.a, self.b, self.twice = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.b.weight = self.a.weight
        self.read = nn.Conv2d(16, 16, 3, padding=1)
        self.hooked = nn.Conv2d(16, 16, 3, padding=1)
        self.hooked.register_forward_hook(lambda *_: None)
        self.good = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.twice(self.twice(self.b(self.a(self.stem(x)))))
        return self.good(self.hooked(self.read(x))).relu() * self.read.weight.mean()


def test_every_skip_has_its_reason():
    def skipped(layer):
        model = stack(layer, nn.Conv2d(32, 32, 3), nn.ReLU())
        return reasons(ghostify.convert(model))["1"]

    assert "depthwise" in skipped(nn.Conv2d(32, 32, 3, groups=32))
    assert "transposed" in skipped(nn.ConvTranspose2d(32, 32, 3))
    assert "parametrised" in skipped(nn.utils.parametrizations.weight_norm(nn.Conv2d(32, 32, 3)))
    assert "remove_spectral_norm" in skipped(nn.utils.spectral_norm(nn.Conv2d(32, 32, 3)))
    assert "quantised" in skipped(torch.ao.nn.qat.Conv2d(32, 32, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig()))
    tied = reasons(ghostify.convert(Tied()))
    assert "first" in tied["stem"]
    assert "same parameters stand in more than one place" in tied["a"]
    assert "same parameters stand in more than one place" in tied["b"]
    assert "called 2 times" in tied["twice"]
    assert "read from outside" in tied["read"]
    assert "hooks" in tied["hooked"]
    assert tied["good"] is None
    few = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 3), nn.Conv2d(4, 32, 1), nn.Conv2d(32, 32, 3), nn.ReLU())
    found = reasons(ghostify.convert(few))
    assert "too few channels" in found["1"]
    assert "a ghost map costs 9, a dense one 4" in found["2"]


def test_layers_that_give_the_outputs_stay_dense():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.low, self.high = (nn.Conv2d(c, 16, 3, padding=1) for c in (3, 16, 16, 16))
            self.norm, self.normed, self.active = nn.GroupNorm(4, 16), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

        def forward(self, x):
            y = self.stem(x).relu()
            z = self.body(y)  # goes to the output by itself, and on
            scores = nn.functional.interpolate(self.low(y) + self.high(z), size=x.shape[-2:])
            return {"out": scores.sigmoid(), "z": z, "normed": self.norm(self.normed(z)), "relu": self.active(z).relu()}

    found = reasons(ghostify.convert(Segmenter()))
    assert {name for name, reason in found.items() if reason is None} == {"body", "normed", "active"}
    assert "gives the network's outputs" in found["low"]
    assert found["low"] == found["high"]
    assert reasons(ghostify.convert(Segmenter(), skip=("first", "pooled")))["high"] is None
    assert reasons(ghostify.convert(Segmenter(), ratios={"low": 2}))["low"] is None


def test_old_style_weight_norm_is_skipped():
    model = stack(nn.utils.weight_norm(nn.Conv2d(32, 32, 3)), nn.Conv2d(32, 32, 3), nn.ReLU())
    student = ghostify.convert(model)
    assert "remove_weight_norm" in reasons(student)["1"]
    x = torch.randn(1, 3, 9, 9)
    assert student(x).shape == model(x).shape


def test_unknown_convolution_class_is_listed():
    class StrangeConv(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(32, 32, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight)

    found = reasons(ghostify.convert(stack(StrangeConv(), nn.Conv2d(32, 32, 3), nn.ReLU())))
    assert "register_pattern" in found["1"]


def test_skip_is_a_choice():
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1)]
    model = stack(nn.Conv2d(32, 32, 3), *pooled)
    assert list(ghosts(ghostify.convert(model))) == ["1"]
    assert list(ghosts(ghostify.convert(model, skip=("first",)))) == ["1", "3"]
    assert list(ghosts(ghostify.convert(model, skip=()))) == ["0", "1", "3"]
    assert list(ghosts(ghostify.convert(model, ratios={"0": 2}))) == ["0", "1"]  # named in full
