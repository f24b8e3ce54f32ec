"""Classes of one's own are told to be convolutions, norms, activations."""

import torch
from helpers.conversion import stack
from torch import nn

import ghostify


def test_register_pattern():
    from ghostify.layers.layer_classes import _TABLE

    class ScaledConv(nn.Module):
        """Not a subclass of Conv2d: a convolution whose output has a gain for each channel."""

        def __init__(self, inputs, outputs):
            super().__init__()
            self.in_channels, self.out_channels = inputs, outputs
            self.kernel_size, self.stride, self.padding, self.dilation, self.groups = (3, 3), (1, 1), 1, (1, 1), 1
            self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
            self.gain = nn.Parameter(torch.rand(outputs, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight, padding=1) * self.gain

    class Offset(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.shift = nn.Parameter(torch.randn(1, channels, 1, 1))

        def forward(self, x):
            return x + self.shift

    def narrow_offset(module, channels):
        narrowed = Offset(len(channels))
        narrowed.shift = nn.Parameter(module.shift.detach()[:, channels])
        return narrowed

    model = stack(ScaledConv(32, 32), Offset(32), nn.ReLU()).eval()
    try:
        ghostify.register_pattern(ScaledConv, "conv")
        ghostify.register_pattern(Offset, "norm", narrow=narrow_offset)
        student = ghostify.convert(model)
    finally:
        _TABLE.pop(ScaledConv, None), _TABLE.pop(Offset, None)
    assert [type(m).__name__ for m in student[1].primary_conv] == ["ScaledConv", "Offset", "ReLU"]
    kept, _ = student[1].original_channels()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(student(x)[:, kept], model(x)[:, kept])
