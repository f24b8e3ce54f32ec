"""Gradient steps on a block of sites together."""

import pytest
import torch
from helpers.calibration import NETWORKS, chain, error, images, trained, wide
from torch import nn

import ghostify
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.settings import BlockSettings, Settings


@pytest.mark.parametrize("name", ["batch norm", "residual", "pre-activation", "prelu"])
def test_blocks_come_closer_still(name):
    teacher = trained(NETWORKS[name]())
    x, held_out = images(128, seed=1), images(64, seed=2)
    errors = []
    for blocks in (None, BlockSettings(steps=150)):
        student = ghostify.convert(teacher, 2)
        # the classifier as it is: refitted, it would hide what became of the maps
        calibrate_with(student, teacher, x, Settings(dense=False), blocks)
        errors.append(error(student, teacher, held_out))
    assert errors[1] < errors[0]


class Forked(nn.Module):
    """Three sites in a row, then two beside each other, and no shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.row = nn.Sequential(*(wide(16, 16) for _ in range(3)))
        self.left, self.right = wide(16, 16), wide(16, 16)

    def forward(self, x):
        x = self.row(self.stem(x).relu()).relu()
        return torch.cat([self.left(x), self.right(x)], 1)


def test_without_shortcuts_two_sites_in_a_row_are_trained_together(monkeypatch):
    teacher = trained(Forked())
    student = ghostify.convert(teacher, 2, skip=("first",))
    seen = []
    monkeypatch.setattr(
        "ghostify.calibration.block_fit.train_block",
        lambda s, t, end, modules, settings: seen.append((end.site.name, len(modules))),
    )
    ghostify.calibrate(student, teacher, images(8))
    assert seen == [("row.1", 2), ("left", 2), ("right", 1)]


@pytest.mark.parametrize("copies", [None, 0, 2])
def test_copies_help_where_images_are_few(copies):
    """Held-out error with copies is below that without; their number is only what was asked for."""
    teacher = trained(chain(wide(16, 24), nn.BatchNorm2d(24), nn.ReLU()))
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, images(16), steps=60, copies=copies)
    assert report.images == 16
    plain = ghostify.convert(teacher, 2)
    ghostify.calibrate(plain, teacher, images(16), steps=60, copies=0)
    errors = [error(s, teacher, images(64, seed=5)) for s in (student, plain)]
    assert errors[0] == errors[1] if copies == 0 else errors[0] < errors[1]


def test_copies_that_could_not_be_made_are_told():
    teacher = nn.Sequential(nn.Conv1d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 16, 3, padding=1))
    report = ghostify.calibrate(
        ghostify.convert(teacher, 2, skip=("first",)), teacher, torch.randn(64, 3, 20), steps=5, copies=2
    )
    assert "no copies were made" in report.summary()
