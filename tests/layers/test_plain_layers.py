"""A convolution with code of its own is known as plain where it multiplies patches by its weight, whatever it pads."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d, StdConv2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

import ghostify
from ghostify.layers.layer_classes import is_plain


class Padded(nn.Conv2d):
    """Pads as TensorFlow does, in a child; its stride is a list."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stride, self.pad = [*self.stride], nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x):
        return F.conv2d(self.pad(x), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


FORWARDS = {
    "relu before": lambda self, x: nn.Conv2d.forward(self, x.relu()),
    "abs behind": lambda self, x: nn.Conv2d.forward(self, x).abs(),
    "shifted": lambda self, x: nn.Conv2d.forward(self, x) + 1,
    "scaled": lambda self, x: 2 * nn.Conv2d.forward(self, x),
    "clamped": lambda self, x: nn.Conv2d.forward(self, x).clamp(0, 6),
    "divided": lambda self, x: nn.Conv2d.forward(self, x / x.std()),
    "rounded input": lambda self, x: nn.Conv2d.forward(self, (4 * x).round() / 4),
    "rounded weight": lambda self, x: self._conv_forward(x, (8 * self.weight).round() / 8, self.bias),
    "of four channels": lambda self, x: nn.Conv2d.forward(self, torch.cat([x[:, :3], torch.ones_like(x[:, :1])], 1)),
}


PADDED = [Conv2dSame(4, 8, 3, 2), Padded(4, 4, 3, 2, groups=4), Padded(4, 8, (1, 5), dilation=2)]


@pytest.mark.parametrize("layer", PADDED, ids=str)
def test_layers_that_pad_in_their_own_way_are_plain(layer):
    assert is_plain(layer)


@pytest.mark.parametrize("forward", FORWARDS.values(), ids=list(FORWARDS))
def test_layers_that_do_more_are_not_plain(forward):
    assert not is_plain(type("Own", (nn.Conv2d,), {"forward": forward})(4, 8, 3))


def test_layers_that_make_their_weight_are_not_plain():
    assert not is_plain(StdConv2d(4, 8, 3))
    assert not is_plain(ScaledStdConv2d(4, 8, 3))


def test_a_block_of_layers_that_pad_in_their_own_way_gets_narrower():
    torch.manual_seed(0)
    layers = (Padded(3, 16, 3, 2), nn.SiLU(), Padded(16, 16, 3, groups=16), nn.SiLU(), Padded(16, 8, 1), Padded(8, 8, 1))
    model = nn.Sequential(*layers).eval()
    x = torch.randn(16, 3, 16, 16)
    student = ghostify.convert(model, 2, cheap="absorbed", example_input=x, skip=())
    assert [layer.out_channels for layer in student if isinstance(layer, nn.Conv2d)] == [8, 8, 4, 8]
    ghostify.calibrate(student, model, x, method="least_squares")
    torch.testing.assert_close(ghostify.fold(student)(x), student(x))
