"""Patches of pictures, times a weight, are the convolution."""

import pytest
import torch
from torch import nn

from ghostify.absorption.patches import Taps
from ghostify.layers.convolution import filters_of


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2), nn.Conv2d(4, 6, (1, 5), padding=(0, 2), dilation=(1, 1)),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, padding_mode="reflect"), nn.Conv2d(4, 6, 3, padding="same", groups=2),
        nn.Conv1d(4, 6, 5, padding=2), nn.Conv3d(4, 6, 3, padding=1, stride=(1, 2, 2)),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 6, 2, stride=2), nn.ConvTranspose2d(4, 6, (3, 4), stride=2, padding=1, output_padding=1),
        nn.ConvTranspose1d(4, 6, 3, dilation=2), nn.ConvTranspose3d(4, 6, 2, stride=(1, 2, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_patches_times_weight_is_the_convolution(conv):
    dims = conv.weight.dim() - 2
    x = torch.randn(2, 4, *(7, 8, 9)[:dims])
    patches = Taps(conv).gather(x, None)  # (N, P, C, taps)
    by_group = patches.flatten(0, 1).unflatten(1, (conv.groups, -1)).flatten(2)
    weight = filters_of(conv).flatten(1).unflatten(0, (conv.groups, -1))
    given = torch.einsum("pgd,god->pgo", by_group, weight).flatten(1) + conv.bias
    torch.testing.assert_close(given, conv(x).flatten(2).transpose(1, 2).flatten(0, 1), rtol=1e-4, atol=1e-5)
