"""A small teacher with its student, and images for them."""

import pytest
import torch
from helpers.networks import Residual, randomize

import ghostify


@pytest.fixture
def pair():
    torch.manual_seed(0)
    teacher = randomize(Residual()).eval()
    return teacher, ghostify.convert(teacher, 2)


@pytest.fixture
def images():
    return torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(1))
