"""Layers of one network fitted one after another: shortcuts, dense layers between, proposals."""

import pytest
import torch
from helpers.calibration import chain, error, images, trained, wide
from helpers.networks import Residual
from torch import nn

import ghostify
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.settings import Settings


class Proposing(nn.Module):
    """A detector's way: a second stage for those maps alone that are strong enough, which are others in the student."""

    def __init__(self, opaque):
        super().__init__()
        self.opaque, self.threshold = opaque, 0.0
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))
        self.head = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())

    def forward(self, x):
        maps = self.body(x)
        if self.opaque and x.sum() > 1e9:
            return maps
        return self.head(maps[maps.mean((1, 2, 3)) > self.threshold])


class Branches(nn.Module):
    """A block of RepVGG's kind before its branches become one layer: all of them read the same maps."""

    def __init__(self, channels, out_channels, shortcut):
        super().__init__()
        self.shortcut = nn.BatchNorm2d(channels) if shortcut else None
        branches = [nn.Conv2d(channels, out_channels, 1, bias=False) for _ in range(4)]
        self.branches = nn.ModuleList(nn.Sequential(branch, nn.BatchNorm2d(out_channels)) for branch in branches)
        self.act = nn.ReLU()

    def forward(self, x):
        total = 0 if self.shortcut is None else self.shortcut(x)
        for branch in self.branches:
            total += branch(x)
        return self.act(total)


@pytest.mark.parametrize("method", ["least_squares", "block"])
def test_dense_branches_of_a_sum_are_refitted_once(method):
    blocks = Branches(16, 16, True), Branches(16, 32, False), Branches(32, 32, True)
    teacher = trained(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks))
    student = ghostify.convert(teacher, 2, cheap="pointwise")
    assert type(student[2].branches[1][0]) is nn.Conv2d  # it would gain nothing
    before = [branch[0].weight.clone() for branch in student[2].branches]
    ghostify.calibrate(student, teacher, images(64, seed=1), method=method, steps=20)
    assert not any(torch.equal(old, branch[0].weight) for old, branch in zip(before, student[2].branches, strict=True))
    assert error(student, teacher, images(64, seed=2)) < 0.5


@pytest.mark.parametrize("method", ["least_squares", "block"])
@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("found", ["some", "none"])
def test_proposals_that_differ_between_teacher_and_student(found, opaque, method):
    teacher = trained(Proposing(opaque))
    teacher.threshold = teacher.body(images()).mean((1, 2, 3)).median().item() if found == "some" else 1e9
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, images(), method=method, steps=20)
    # code that does not trace runs the second stage on the teacher's proposals
    served = {"body.2", "head.0"} if opaque and found == "some" else {"body.2"}
    assert {site.name for site in report.fitted} == served
    assert len(report.sites) == 2
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


def test_layers_that_were_not_converted_make_up_for_what_reaches_them():
    teacher = trained(
        chain(
            wide(bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        )
    )  # fmt: skip
    x, held_out, errors = images(128, seed=1), images(64, seed=2), []
    for dense in (True, False):
        student = ghostify.convert(teacher, 2)
        calibrate_with(student, teacher, x, Settings(dense=dense))
        errors.append(error(student, teacher, held_out))
        assert torch.equal(student[0].weight, teacher[0].weight)  # nothing was converted before it
        for name in ("6.weight", "11.weight"):
            assert torch.equal(student.get_parameter(name), teacher.get_parameter(name)) != dense
    assert errors[0] < 0.9 * errors[1]


def test_calibrating_again_is_no_harm():
    teacher = trained(nn.Sequential(Residual(16)))
    x, held_out = images(128, seed=1), images(64, seed=2)
    student = ghostify.convert(teacher, 2, skip=())  # then every layer is converted or refitted
    for _ in range(2):
        ghostify.calibrate(student, teacher, x, method="least_squares")
    once = ghostify.convert(teacher, 2, skip=())
    ghostify.calibrate(once, teacher, x, method="least_squares")
    assert error(student, teacher, held_out) < 1.1 * error(once, teacher, held_out)


def test_a_residual_branch_repairs_what_its_shortcut_lost():
    teacher = trained(nn.Sequential(Residual(16)))
    x, held_out = images(128, seed=1), images(64, seed=2)
    errors = []
    for residual in (True, False):
        student = ghostify.convert(teacher, 2, skip=())  # the stem, and with it the shortcut, is converted too
        calibrate_with(student, teacher, x, Settings(residual=residual))
        errors.append(error(student, teacher, held_out))
    assert errors[0] < errors[1]


class TwoWays(nn.Module):
    """A sum of two ways that have as many layers each."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.left, self.right = (nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(self.bn1(self.left(x)) + self.bn2(self.right(x))).mean((2, 3)))


@pytest.mark.parametrize("method", ["least_squares", "block"])
def test_two_dense_ways_to_a_sum_do_not_wait_for_each_other(method):
    teacher = trained(TwoWays())
    student = ghostify.convert(teacher, 2, ratios={"left": None, "right": None})
    before = error(student, teacher, images(64, seed=2))
    ghostify.calibrate(student, teacher, images(), method=method, steps=60)
    assert error(student, teacher, images(64, seed=2)) < before
