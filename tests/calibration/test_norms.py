"""Norms whose statistics are measured anew."""

import copy

import pytest
import torch
from helpers.calibration import TEACHER, X, images, state, trained, unchanged
from torch import nn

import ghostify


def test_reestimated_norms_are_the_statistics_of_the_images():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(0.5)).eval()
    x = images(64)
    assert ghostify.reestimate_norms(model, x, batch_size=64) == 1
    seen = model[0](x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, seen.mean(1))
    torch.testing.assert_close(model[1].running_var, seen.var(1))
    assert model[1].momentum == 0.3
    assert not any(m.training for m in model.modules())
    before = state(model)
    with pytest.raises(ghostify.ArgumentError):
        ghostify.reestimate_norms(model, [x, torch.zeros(2, 5, 9, 9)])
    assert unchanged(model, before)


def test_norms_weigh_a_batch_by_its_images():
    model = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    x = images(33)
    ghostify.reestimate_norms(model, [x[:32], x[32:]])
    maps = model[0](x).transpose(0, 1).flatten(1)
    assert torch.allclose(model[1].running_mean, maps.mean(1), atol=1e-5)
    assert model[1].momentum == 0.1


def test_norms_on_pooled_maps_take_a_last_batch_of_one():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8)).eval()
    twin = copy.deepcopy(model)
    x = images(33)
    ghostify.reestimate_norms(model, [x[:32], x[32:]])
    ghostify.reestimate_norms(twin, x[:32])
    assert torch.equal(model[3].running_var, twin[3].running_var)
    assert not model[3].training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"max_images": 1.5}, "max_images"),
        ({"max_images": 0}, "max_images must be at least"),
    ],
)
def test_bad_settings_of_norms(options, message):
    with pytest.raises(ghostify.GhostifyError, match=message):
        ghostify.reestimate_norms(TEACHER, X, **options)
    with pytest.raises(ghostify.ArgumentTypeError, match="student"):
        ghostify.reestimate_norms("resnet50", X)
