"""How often images are used once more, mirrored and shifted, unless that is said."""

import pytest
import torch
from torch import nn

import ghostify
from ghostify.calibration import calibrate as calibration


@pytest.mark.parametrize(
    ("cheap", "method", "images", "views"),
    [
        ("absorbed", "least_squares", 48, 96),
        ("depthwise", "least_squares", 48, 48),
        ("absorbed", "block", 48, 192),
        ("absorbed", "least_squares", 600, 600),
    ],
)
def test_the_default_number(monkeypatch, cheap, method, images, views):
    seen = []

    def add_copies(held, copies, seed):
        seen.append(images * (1 + copies))
        return True

    monkeypatch.setattr(calibration, "add_copies", add_copies)
    teacher = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    student = ghostify.convert(teacher, 2, cheap=cheap, skip=(), min_channels=1)
    ghostify.calibrate(student, teacher, torch.randn(images, 3, 8, 8), method=method, steps=1)
    assert seen == [views]
