"""The mean of what a reader gives after its norm is the teacher's, though the norm takes what the mean lost with the maps."""

import pytest
import torch
from helpers.spans import shake
from torch import nn

import ghostify


@pytest.mark.parametrize("bias", [False, True])
def test_a_reader_with_a_norm_keeps_the_means_of_its_maps(bias):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 1, bias=bias), nn.BatchNorm2d(12)]
    teacher = shake(nn.Sequential(*layers)).eval()
    images = torch.randn(64, 3, 6, 6) + 0.5
    student = ghostify.convert(teacher, 2, cheap="absorbed", min_channels=1, skip=())
    ghostify.calibrate(student, teacher, images, method="least_squares", copies=0)
    with torch.no_grad():
        found, wanted = student(images), teacher(images)
    assert student[2].in_channels == 8
    assert not torch.allclose(found, wanted, atol=1e-2)
    torch.testing.assert_close(found.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
