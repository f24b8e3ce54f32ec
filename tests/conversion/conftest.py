"""A small ResNet and images for it, whose norms know them."""

import pytest
import timm
import torch
from helpers.networks import randomize

import ghostify


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return randomize(timm.create_model("resnet18", channels=(32, 32, 64, 64), stem_width=32, output_stride=8)).eval()


@pytest.fixture(scope="module")
def images(resnet):
    torch.manual_seed(1)
    images = torch.randn(24, 3, 64, 64)
    ghostify.reestimate_norms(resnet, images)
    return images
