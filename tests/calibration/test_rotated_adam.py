"""Adam in the basis of a layer's inputs."""

import copy

import pytest
import torch
from torch import nn

from ghostify.calibration.rotated_adam import RotatedAdam, input_bases


def correlated_regression():
    """A convolution to be found from inputs whose channels are nearly alike."""
    x = torch.randn(16, 1, 8, 8) + 0.03 * torch.randn(16, 12, 8, 8)
    wanted = nn.Conv2d(12, 4, 3, padding=1)(x).detach()
    return x, wanted, nn.Conv2d(12, 4, 3, padding=1)


def losses(optimizer, conv, x, wanted, steps):
    found = []
    for _ in range(steps):
        loss = (conv(x) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def test_rotated_adam_without_a_basis_is_adam():
    x, wanted, conv = correlated_regression()
    twin = copy.deepcopy(conv)
    groups = [{"params": [p], "lr": 0.01, "basis": None} for p in conv.parameters()]
    ours = losses(RotatedAdam(groups), conv, x, wanted, 20)
    theirs = losses(torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.9, 0.95)), twin, x, wanted, 20)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_rotated_adam_sees_through_channels_that_are_alike():
    x, wanted, conv = correlated_regression()
    twin = copy.deepcopy(conv)
    with input_bases([nn.Sequential(conv, nn.Conv2d(4, 4, 3, groups=4))]) as bases:
        conv(x)
    basis = bases.pop(id(conv.weight))
    assert not bases  # channels of a depthwise convolution do not meet
    assert torch.allclose(basis @ basis.T, torch.eye(12), atol=1e-5)
    groups = [{"params": [p], "lr": 0.01, "basis": basis if p.dim() > 1 else None} for p in conv.parameters()]
    ours = losses(RotatedAdam(groups), conv, x, wanted, 200)
    theirs = losses(torch.optim.Adam(twin.parameters(), lr=0.01, betas=(0.9, 0.95)), twin, x, wanted, 200)
    assert ours[-1] < 0.2 * theirs[-1]
