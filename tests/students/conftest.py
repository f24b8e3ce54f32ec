"""A small teacher."""

import pytest
import torch
from helpers.networks import Residual, randomize


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return randomize(Residual()).eval()
