"""The arithmetic of the GhostNet paper: all convolutions but the first, d = 3, convolution and linear multiply-adds."""

import pytest
import torch

import ghostify


def close(value, expected):
    assert value == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(("ratio", "params", "flops"), [(2, 13.95e6, 2.15e9), (3, 10.11e6, 1.52e9), (4, 8.15e6, 1.18e9)])
def test_resnet50(ratio, params, flops):
    report = ghostify.report(ghostify.convert(ghostify.create_model("torchvision/resnet50", device="meta"), ratio))
    close(report.after.params, params)
    close(report.after.flops, flops)
    assert report.reached == 1


def test_cifar_vgg16(cifar_models):
    report = ghostify.report(ghostify.convert(cifar_models.vgg16_bn()), (1, 3, 32, 32))
    close(report.after.flops, 158.4e6)


def test_cifar_resnet56(cifar_models):
    with torch.device("meta"):
        model = cifar_models.resnet56()
    report = ghostify.report(ghostify.convert(model), (1, 3, 32, 32))
    close(report.after.params, 0.44e6)
    assert 65e6 <= report.after.flops <= 67e6
