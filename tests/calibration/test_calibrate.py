"""Calibration: exact where it can be, better than the warm start everywhere, and nothing changed where it fails."""

import copy
import importlib
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.networks import Residual, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ghostify
from ghostify.calibration.alignment import Partition
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.channel_choice import choose_pointwise
from ghostify.calibration.patches import Taps
from ghostify.calibration.regression import Moments
from ghostify.calibration.rotated_adam import RotatedAdam, input_bases
from ghostify.calibration.settings import BlockSettings, Settings
from ghostify.calibration.site_fit import SiteProblem
from ghostify.common.spill import SpilledList as Spool
from ghostify.inputs.augment import copied
from ghostify.inputs.images import as_calls
from ghostify.students.recipe import recipe_of

calibrate_module = importlib.import_module("ghostify.calibrate")


def images(count=64, size=12, channels=3, seed=0):
    """Smooth random pictures: neighbouring pixels are alike, as in photographs."""
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, 1, 1) * 3


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def trained(model, size=12, channels=3):
    """Norms that have seen data, in evaluation mode."""
    randomize(model)
    ghostify.reestimate_norms(model, images(64, size, channels, seed=9))
    return model.eval()


def chain(*layers, channels=24):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *layers,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5),
    )  # fmt: skip


def error(student, teacher, x):
    with torch.no_grad():
        wanted = teacher(x)
        return float((student(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


# -- exactness ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["least_squares", "block"])
def test_a_convolution_that_is_a_ghost_module_is_recovered_and_its_shuffle_found(method):
    torch.manual_seed(1)
    centre, kernels = torch.randn(8, 6), torch.randn(8, 3, 3)
    intrinsic = torch.zeros(8, 6, 3, 3)
    intrinsic[:, :, 1, 1] = centre  # a 1x1 filter in a 3x3 one: outside of the picture its map is zero
    made_from = torch.randperm(8)
    ghosts = centre[made_from][:, :, None, None] * kernels[:, None]
    shuffle = torch.randperm(16)
    conv = nn.Conv2d(6, 16, 3, padding=1, bias=False)
    conv.weight.data = torch.cat([intrinsic, ghosts])[shuffle]
    teacher = nn.Sequential(conv).eval()
    student = ghostify.convert(teacher, 2, skip=())
    x = torch.randn(64, 6, 10, 10)
    ghostify.calibrate(student, teacher, x, method=method)
    held_out = torch.randn(16, 6, 10, 10)
    assert (student(held_out) - teacher(held_out)).abs().max() < 1e-4 * teacher(held_out).abs().max()
    ghost = student[0]
    kept, made = ghost.original_channels()
    assert set(shuffle[kept].tolist()) == set(range(8))
    source = dict(zip(shuffle[made].tolist(), shuffle[kept][ghost.source_positions()].tolist(), strict=True))
    assert source == {8 + i: int(j) for i, j in enumerate(made_from)}


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_streamed_ridge_is_lstsq_on_the_whole_problem(groups, features, targets, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 200, features, generator=generator, dtype=torch.float64) + 3
    y = torch.randn(groups, 200, targets, generator=generator, dtype=torch.float64)
    prior = torch.randn(groups, features, targets, generator=generator, dtype=torch.float64)
    system = Moments.zeros(groups, features, targets, x.device)
    for batch in range(5):
        part = slice(40 * batch, 40 * batch + 40)
        system.add(x[:, part], y[:, part])
    ridge = 0.01
    solved = system.solve(ridge, prior)
    centred_x, centred_y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    strength = ridge * centred_x.square().mean((1, 2))
    pull = (200 * strength).sqrt()[:, None, None] * torch.eye(features, dtype=torch.float64)
    wanted = torch.linalg.lstsq(torch.cat([centred_x, pull], 1), torch.cat([centred_y, pull @ prior], 1)).solution
    torch.testing.assert_close(solved, wanted, rtol=1e-8, atol=1e-9)


def test_ridge_survives_constant_features():
    x = torch.ones(1, 50, 4)
    system = Moments.zeros(1, 4, 2, x.device)
    system.add(x, torch.randn(1, 50, 2))
    assert torch.isfinite(system.solve(1e-3)).all()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2), nn.Conv2d(4, 6, (1, 5), padding=(0, 2), dilation=(1, 1)),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, padding_mode="reflect"), nn.Conv2d(4, 6, 3, padding="same", groups=2),
        nn.Conv1d(4, 6, 5, padding=2), nn.Conv3d(4, 6, 3, padding=1, stride=(1, 2, 2)),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)  # fmt: skip
def test_patches_times_weight_is_the_convolution(conv):
    dims = conv.weight.dim() - 2
    x = torch.randn(2, 4, *(7, 8, 9)[:dims])
    patches = Taps(conv).gather(x, None)  # (N, P, C, taps)
    by_group = patches.flatten(0, 1).unflatten(1, (conv.groups, -1)).flatten(2)
    weight = conv.weight.flatten(1).unflatten(0, (conv.groups, -1))
    given = torch.einsum("pgd,god->pgo", by_group, weight).flatten(1) + conv.bias
    torch.testing.assert_close(given, conv(x).flatten(2).transpose(1, 2).flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_pointwise_choice_is_a_basis_where_there_is_one():
    torch.manual_seed(0)
    basis = torch.randn(1000, 4)
    maps = basis @ torch.randn(4, 12)
    maps[:, [2, 5, 7, 9]] = basis
    chosen, left_over = choose_pointwise(maps.T @ maps / 1000, 4)
    assert left_over < 1e-4
    left = maps - maps[:, chosen] @ torch.linalg.lstsq(maps[:, chosen], maps).solution
    assert left.abs().max() < 1e-3


# -- better than the warm start, on every kind of network -----------------------------------------------------------------


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(F.relu_(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.head(F.relu(x).mean((2, 3)))


class Opaque(nn.Module):
    """Forward code that no tracer follows, around a part that traces."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Residual(), nn.Linear(10, 5)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return self.head(torch.cat([self.body(part) for part in x.split(len(x) // 2 or 1)]))


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def wide(inputs=16, outputs=24, conv=nn.Conv2d, **options):
    return conv(inputs, outputs, 3, padding=1, **options)


NETWORKS = {
    "batch norm": lambda: chain(wide(bias=False), nn.BatchNorm2d(24), nn.ReLU()),
    "no norm": lambda: chain(wide(), nn.ReLU(inplace=True)),
    "no activation": lambda: chain(wide(), nn.BatchNorm2d(24)),
    "grouped": lambda: chain(wide(groups=2), nn.BatchNorm2d(24), nn.SiLU(inplace=True)),
    "instance norm": lambda: chain(wide(), nn.InstanceNorm2d(24, affine=True), nn.ReLU()),
    "prelu": lambda: chain(wide(), nn.BatchNorm2d(24), nn.PReLU(24)),
    "weight standardised": lambda: chain(wide(conv=Standardised), nn.BatchNorm2d(24), nn.ReLU()),
    "no affine": lambda: chain(wide(), nn.BatchNorm2d(24, affine=False), nn.ReLU()),
    "residual": Residual,
    "residual, gelu": lambda: Residual(act=nn.GELU),
    "pre-activation": PreActivation,
    "opaque": Opaque,
}


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_student_comes_closer_to_the_teacher(name, cheap):
    teacher = trained(NETWORKS[name]())
    student = ghostify.convert(teacher, 1.5, cheap=cheap)
    held_out = images(64, seed=2)
    before = error(student, teacher, held_out)
    report = ghostify.calibrate(student, teacher, images(96, seed=1), method="least_squares")
    after = error(student, teacher, held_out)
    assert after < 0.9 * before
    assert len(report.fitted) == len(report.sites) == sum(r.converted for r in recipe_of(student).sites)
    assert report.after < report.before


@pytest.mark.parametrize("name", ["batch norm", "residual", "pre-activation", "prelu"])
def test_blocks_come_closer_still(name):
    teacher = trained(NETWORKS[name]())
    x, held_out = images(128, seed=1), images(64, seed=2)
    errors = []
    for blocks in (None, BlockSettings()):
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
        "ghostify.calibration.part_fit.train_block",
        lambda s, t, end, modules, settings: seen.append((end.site.name, len(modules))),
    )
    ghostify.calibrate(student, teacher, images(8))
    assert seen == [("row.1", 2), ("left", 2), ("right", 1)]


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


def test_copies_are_mirrored_then_shifted_too():
    x = images(40, size=16)
    generator = torch.Generator().manual_seed(0)
    ((mirrored,), _), ((moved,), _) = (copied(((x,), {}), number, generator) for number in (0, 1))
    assert torch.equal(mirrored, x.flip(-1))
    own = [torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(moved, x, strict=True)]
    assert moved.shape == x.shape
    assert sum(own) < 8  # one place in 25 is no shift
    # away from the edges every picture, or its mirror image, is found again
    for a, b in zip(moved, x, strict=True):
        inner = a[:, 2:-2, 2:-2]
        places = [w for view in (b, b.flip(-1)) for w in view.unfold(1, 12, 1).unfold(2, 12, 1).flatten(1, 2).unbind(1)]
        assert any(torch.equal(inner, place) for place in places)
    assert copied((([x[0]],), {}), 0, generator) is None  # a detector's list
    assert copied(((x[0],), {}), 0, generator) is None


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


@pytest.mark.parametrize("method", ["least_squares", "block"])
@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("found", ["some", "none"])
def test_proposals_that_differ_between_teacher_and_student(found, opaque, method):
    teacher = trained(Proposing(opaque))
    teacher.threshold = teacher.body(images()).mean((1, 2, 3)).median().item() if found == "some" else 1e9
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, images(), method=method)
    # code that does not trace runs the second stage on the teacher's proposals
    served = {"body.2", "head.0"} if opaque and found == "some" else {"body.2"}
    assert {site.name for site in report.fitted} == served
    assert len(report.sites) == 2
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_dimensions(dims):
    conv, norm, pool = {
        1: (nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d), 3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d)
    }[dims]  # fmt: skip
    teacher = nn.Sequential(
        conv(2, 8, 3, padding=1), norm(8), nn.ReLU(), conv(8, 16, 3, padding=1), norm(16), nn.ReLU(), pool(1), nn.Flatten()
    )
    torch.manual_seed(0)
    x = torch.randn(64, 2, *(6,) * dims)
    ghostify.reestimate_norms(teacher, x)
    student = ghostify.convert(teacher.eval(), 2)
    before = error(student, teacher, x)
    report = ghostify.calibrate(student, teacher, x)
    assert error(student, teacher, x) < 0.7 * before
    assert len(report.fitted) == 1


def test_fully_connected_layers_get_the_best_rank_for_their_inputs():
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 4, 64), nn.ReLU(), nn.Linear(64, 5)
    ).eval()
    x = images(256, 4)
    student = ghostify.convert(teacher, 2, skip=(), linear_ratio=4)
    before = error(student, teacher, x)
    report = ghostify.calibrate(student, teacher, x, method="least_squares")
    assert error(student, teacher, x) < 0.8 * before
    assert {site.kind for site in report.fitted} == {"conv", "linear"}


@given(st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_more_images_do_not_make_the_held_out_error_worse(seed):
    torch.manual_seed(seed)
    teacher = trained(NETWORKS["batch norm"]())
    held_out, errors = images(128, seed=seed + 5000), []
    for count in (4, 16, 64, 256):
        student = ghostify.convert(teacher, 2)
        # the same channels for all: which are chosen jumps from one to another, and the error with it, by ten percent and more
        calibrate_with(student, teacher, images(256, seed=seed)[:count], Settings(choose=False))
        errors.append(error(student[:6], teacher[:6], held_out))
    for few, many in itertools.pairwise(errors):
        assert many < 1.05 * few


def test_linear_ghosts_of_all_intrinsic_maps_find_a_low_rank():
    """No eight of the channels are a basis that is as good as the best of rank eight, noise being in all of them."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 16, 3, padding=1)
    filters = torch.randn(16, 8) @ torch.randn(8, 54) + 0.3 * torch.randn(16, 54)
    conv.weight.data = filters.view_as(conv.weight)
    teacher, x, errors = nn.Sequential(conv).eval(), torch.randn(64, 6, 10, 10), {}
    for rank in (True, False):
        student = ghostify.convert(teacher, 2, skip=(), cheap="pointwise")
        calibrate_with(student, teacher, x, Settings(rank=rank, ridge=1e-6))
        errors[rank] = (student(x) - teacher(x)).square().sum().item()
    maps = teacher(x).transpose(0, 1).flatten(1).double()
    least = torch.linalg.svdvals(maps - maps.mean(1, keepdim=True))[8:].square().sum().item()
    assert errors[True] == pytest.approx(least, rel=0.05)
    assert errors[True] < 0.9 * errors[False]


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
    ghostify.calibrate(student, teacher, images(), method=method)
    assert error(student, teacher, images(64, seed=2)) < before


def test_filters_keep_the_original_length_under_a_norm():
    teacher = trained(Residual())
    student = ghostify.convert(teacher, 2)
    ghostify.calibrate(student, teacher, images(), method="least_squares")
    for name in ("conv1", "conv2"):
        ghost, conv = student.get_submodule(name), teacher.get_submodule(name)
        kept, made = ghost.original_channels()
        length = conv.weight.flatten(1).norm(dim=1)
        for part, channels in ((ghost.primary_conv, kept), (ghost.cheap_operation, made)):
            torch.testing.assert_close(part[0].weight.flatten(1).norm(dim=1), length[channels], rtol=1e-4, atol=1e-5)


def test_layers_it_cannot_solve_for_say_so():
    teacher = trained(NETWORKS["weight standardised"]())
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, images(), method="least_squares")
    assert "filters kept" in report.sites[0].note
    assert "filters kept" in str(report)


def test_a_site_that_never_runs_keeps_its_warm_start():
    class Auxiliary(Residual):
        def __init__(self):
            super().__init__()
            self.aux = nn.Conv2d(16, 16, 3)

        def forward(self, x):
            return super().forward(x) + (self.aux(x).mean() if self.training else 0)

    teacher = trained_without_running(Auxiliary())
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, images(), method="least_squares")
    assert report.kept == {"never runs in evaluation mode": ["aux"]}


def trained_without_running(model):
    return randomize(model).eval()


def test_auto_is_decided_by_the_data_and_the_recipe_follows():
    teacher = trained(NETWORKS["batch norm"]())
    x = images(96, seed=1)
    student = ghostify.convert(teacher, 2, cheap="auto")
    report = ghostify.calibrate(student, teacher, x, method="least_squares")
    after = {}
    for cheap in ("depthwise", "pointwise"):
        other = ghostify.convert(teacher, 2, cheap=cheap)
        after[cheap] = ghostify.calibrate(other, teacher, x, method="least_squares").sites[0].after
    best = report.sites[0].cheap
    assert student[3].cheap == best
    assert report.sites[0].after == pytest.approx(after[best], rel=1e-5)
    assert after[best] < 1.1 * min(after.values())
    assert {row.name: row.cheap for row in ghostify.report(student, (1, 3, 12, 12)).converted} == {"3": best}


# -- what stays as it was -------------------------------------------------------------------------------------------------


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_in_place_and_the_teacher_as_it_was():
    teacher = trained(Residual()).train()
    teacher.conv1.eval()
    student = ghostify.convert(teacher, 2)
    student.train()
    parameters, modules = list(map(id, student.parameters())), list(map(id, student.modules()))
    before, modes = state(teacher), [m.training for m in teacher.modules()]
    random = torch.get_rng_state()
    ghostify.calibrate(student, teacher, images())
    assert unchanged(teacher, before)
    assert [m.training for m in teacher.modules()] == modes
    assert list(map(id, student.parameters())) == parameters
    assert list(map(id, student.modules())) == modules
    assert all(m.training for m in student.modules())
    assert all(p.requires_grad and p.grad is None for p in student.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("where", ["images", "site", "commit"])
def test_whatever_interrupts_it_leaves_the_student_as_it_was(where, error, monkeypatch):
    teacher = trained(Residual())
    student = ghostify.convert(teacher, 2, cheap="auto")
    before, recipe = state(student), recipe_of(student)

    def batches():
        yield images(8)
        if where == "images":
            raise error

    calls = itertools.count()

    def second(old):
        def wrapped(*args, **kwargs):
            if next(calls) == 1:
                raise error
            return old(*args, **kwargs)

        return wrapped

    if where == "site":
        monkeypatch.setattr(SiteProblem, "solve", second(SiteProblem.solve))
    if where == "commit":
        monkeypatch.setattr(calibrate_module, "_replace_module", second(calibrate_module._replace_module))
    with pytest.raises(error):
        ghostify.calibrate(student, teacher, batches(), method="least_squares")
    assert unchanged(student, before)
    assert recipe_of(student) is recipe


def test_the_same_twice_gives_the_same():
    teacher = trained(Residual())
    outputs = []
    for _ in range(2):
        student = ghostify.convert(teacher, 2)
        ghostify.calibrate(student, teacher, images())
        outputs.append(student(images(4)))
    assert torch.equal(*outputs)


def test_a_graph_module_and_half_precision():
    teacher = torch.fx.symbolic_trace(trained(Residual()))
    student = ghostify.convert(teacher, 2)
    before = error(student, teacher, images(seed=3))
    ghostify.calibrate(student, teacher, images())
    assert isinstance(student, torch.fx.GraphModule)
    assert error(student, teacher, images(seed=3)) < before
    low = copy.deepcopy(trained(Residual())).to(torch.bfloat16)
    student = ghostify.convert(low, 2)
    ghostify.calibrate(student, low, images().to(torch.bfloat16), method="least_squares")
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    assert error(student.float(), low.float(), images(seed=3)) < before


# -- images ---------------------------------------------------------------------------------------------------------------


def test_every_form_of_images_gives_the_same(tmp_path):
    teacher, x = trained(Residual()), images(40)
    np.save(tmp_path / "few.npy", x.numpy())
    labelled = torch.utils.data.TensorDataset(x, torch.zeros(40))
    forms = [
        x, x.numpy(), torch.utils.data.DataLoader(labelled, 8), list(x.split(8)), ({"image": b} for b in x.split(8)),
        tmp_path / "few.npy", str(tmp_path / "few.npy"), torch.cat([x, x]),
    ]  # fmt: skip
    outputs = []
    for form in forms:
        student = ghostify.convert(teacher, 2)
        report = ghostify.calibrate(student, teacher, form, method="least_squares", max_images=40, batch_size=8)
        assert report.images == 40
        outputs.append(student(x[:4]))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])


def test_of_a_large_folder_some_pictures_of_every_class_are_read(tmp_path):
    import timm
    from PIL import Image

    for kind in range(5):
        (tmp_path / str(kind)).mkdir()
        for number in range(8):
            Image.new("RGB", (8, 8), (50 * kind, 0, 0)).save(tmp_path / str(kind) / f"{number}.png")
    model = timm.create_model("resnet18", num_classes=2)
    calls = as_calls(tmp_path, model, 10, 4)
    reds = torch.cat([images[:, 0].mean((1, 2)) for (images,), _ in calls])
    assert len(reds) == 10
    assert len(reds.unique()) == 5


def test_a_folder_of_pictures(tmp_path):
    import torchvision
    from PIL import Image

    torch.manual_seed(0)
    for index in range(6):
        Image.fromarray((torch.rand(40, 50, 3).numpy() * 255).astype("uint8")).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    teacher = torchvision.models.squeezenet1_1().eval()
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, tmp_path, method="least_squares", max_images=4)
    assert report.images == 4
    assert report.after < report.before
    (tmp_path / "7.png").write_text("no picture either")
    with pytest.raises(ghostify.ArgumentError, match=r"no picture: 7\.png"):
        ghostify.calibrate(student, teacher, tmp_path, method="least_squares")


def test_maps_on_disk_give_the_same_and_are_cleared_away(tmp_path, monkeypatch):
    import tempfile

    teacher, outputs = trained(Residual()), []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    for memory in (1 << 30, 0):
        monkeypatch.setattr(calibrate_module, "MEMORY", memory)
        monkeypatch.setattr(Spool, "close", (lambda old: lambda self: (seen.append(self.folder), old(self)))(Spool.close))
        student = ghostify.convert(teacher, 2)
        ghostify.calibrate(student, teacher, images())
        outputs.append(student(images(4)))
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert any(seen)
    assert torch.equal(*outputs)
    assert not list(tmp_path.iterdir())


X = images(8)
TEACHER = trained(Residual())


def poisoned(model):
    model = copy.deepcopy(model)
    next(model.parameters()).data[0] = torch.nan
    return model


def another_head(student):
    name, head = [(n, m) for n, m in student.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, child = name.rpartition(".")
    setattr(student.get_submodule(parent), child, nn.Linear(head.in_features, 3))
    return student


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "no image"),
        ({"images": torch.zeros(0, 3, 12, 12)}, "no image"),
        ({"images": X[0]}, "do not fit"),
        ({"images": X[0, 0]}, "shape"),
        ({"images": images(8, channels=4)}, "do not fit"),
        ({"images": (X * 255).clamp(0, 255).to(torch.uint8)}, "uint8"),
        ({"images": X.masked_fill(X > 1, torch.nan)}, "NaN"),
        ({"images": X * 255}, "another range"),
        ({"images": 3}, "images must be"),
        ({"images": ["a"]}, "must be a tensor"),
        ({"images": [{"label": 1}]}, "pixel_values"),
        ({"images": "nowhere"}, "neither a folder"),
        ({"method": "magic"}, "method"),
        ({"max_images": 0}, "max_images"),
        ({"max_images": 2.5}, "max_images"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"seed": None}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"images": np.array([["a"]], dtype=object)}, "array of object"),
        ({"images": X.to_sparse()}, "sparse"),
        ({"images": X.to("meta")}, "meta"),
        ({"images": list(X)}, "single images"),
        ({"teacher": copy.deepcopy(TEACHER).double()}, "one precision"),
        ({"teacher": poisoned(TEACHER)}, "NaN or infinite weights in"),
        ({"student": another_head(ghostify.convert(TEACHER, 2))}, "the student's"),
        ({"copies": -1}, "copies"),
        ({"copies": 1.5}, "copies"),
        ({"lr": -1}, "lr"),
        ({"ridge": 0}, "ridge"),
        ({"teacher": Residual(24)}, "has other|is 24|→"),
        ({"teacher": trained(nn.Sequential(Residual()))}, "no layer 'conv1'"),
        ({"teacher": trained(Residual(act=nn.Identity))}, "other weights|other layers"),
        ({"teacher": ghostify.convert(TEACHER, 2)}, "Ghost modules itself"),
        ({"teacher": None}, "teacher must be"),
        ({"student": TEACHER}, "ghostify.convert"),
        ({"student": 1}, "student must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_bad_input_is_one_sentence_and_changes_nothing(changes, message):
    student = ghostify.convert(TEACHER, 2)
    before = state(student)
    arguments = {"student": student, "teacher": TEACHER, "images": X, **changes}
    with pytest.raises(ghostify.GhostifyError, match=message) as caught:
        ghostify.calibrate(**arguments)
    assert "\n" not in str(caught.value)
    assert unchanged(student, before)


def test_single_images_to_a_network_without_norms():
    teacher = nn.Sequential(wide(3, 24), nn.ReLU(), wide(24, 24))
    student = ghostify.convert(teacher, 2, skip=("first",))
    with pytest.raises(ghostify.ArgumentError, match="single images"):
        ghostify.calibrate(student, teacher, list(X))


@pytest.mark.parametrize("method", ["least_squares", "block"])
@pytest.mark.parametrize("mode", ["inference", "no_grad", "autocast"])
def test_what_the_caller_has_switched_on_changes_nothing(mode, method):
    modes = {
        "inference": torch.inference_mode, "no_grad": torch.no_grad, "autocast": lambda: torch.autocast("cpu", torch.bfloat16)
    }  # fmt: skip
    plain, student = (ghostify.convert(TEACHER, 2) for _ in range(2))
    ghostify.calibrate(plain, TEACHER, X, method=method, steps=5)
    random = torch.get_rng_state()
    with modes[mode]():
        ghostify.calibrate(student, TEACHER, X + 0, method=method, steps=5)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in plain.state_dict().items():
        assert torch.allclose(value.float(), student.state_dict()[name].float(), rtol=1e-2, atol=1e-2), name
    student.train()(X).sum().backward()


def test_copies_that_could_not_be_made_are_told():
    teacher = nn.Sequential(nn.Conv1d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 16, 3, padding=1))
    report = ghostify.calibrate(
        ghostify.convert(teacher, 2, skip=("first",)), teacher, torch.randn(64, 3, 20), steps=5, copies=2
    )
    assert "no copies were made" in report.summary()


def test_odd_images_are_used_and_named():
    student = ghostify.convert(TEACHER, 2)
    report = ghostify.calibrate(student, TEACHER, X[:1], method="least_squares")
    assert "only 1 image" in report.summary()
    assert all(torch.isfinite(value).all() for value in student.state_dict().values() if value.is_floating_point())
    with pytest.warns(UserWarning, match="preprocessing"):
        report = ghostify.calibrate(ghostify.convert(TEACHER, 2), TEACHER, X * 5, method="least_squares")
    assert "preprocessing" in str(report)


def test_dead_and_constant_channels_stay_finite():
    teacher = trained(Residual(16))
    with torch.no_grad():
        teacher.bn1.weight[:6] = 0
        teacher.conv1.weight[3] = 0
        teacher.stem.weight[:10] = 0
    for cheap in ("depthwise", "pointwise"):
        student = ghostify.convert(teacher, 2, cheap=cheap)
        ghostify.calibrate(student, teacher, images())
        assert all(torch.isfinite(value).all() for value in student.state_dict().values())
        assert error(student, teacher, images(seed=4)) < 1


# -- norms and the report -------------------------------------------------------------------------------------------------


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


def test_no_more_batches_are_read_than_needed():
    given = []

    def batches():
        for k in range(9):
            given.append(k)
            yield X

    ghostify.calibrate(ghostify.convert(TEACHER, 2), TEACHER, batches(), max_images=np.int64(12), method="least_squares")
    assert given == [0, 1]


def test_the_report_prints_plots_and_exports():
    student = ghostify.convert(TEACHER, 2)
    report = ghostify.calibrate(student, TEACHER, X)
    frame = report.to_frame()
    assert list(frame.index) == ["conv1", "conv2"]
    assert {"before", "after", "cheap"} <= set(frame.columns)
    assert "2 of 2 sites fitted to 8 images" in str(report)
    axes = report.plot()
    assert len(axes.lines) == 2
    assert '"conv1"' in report.to_json()


def test_layers_that_are_added_choose_together():
    """Of two pairings, each best for one layer, the one whose errors add up to less; a layer of another width has no say."""
    costs = []
    for near, far in ((1.0, 4.0), (9.0, 2.0)):  # of making channel 1 from 0 and 3 from 2; of making 2 from 0 and 3 from 1
        cost = torch.full((4, 4), 100.0)
        cost[1, 0] = cost[3, 2] = near
        cost[2, 0] = cost[3, 1] = far
        costs.append(cost)
    partition = Partition(layers={2: [{"depthwise": cost} for cost in costs], 3: [{"depthwise": costs[0]}]})
    partition.choose()
    assert partition.intrinsic.tolist() == [0, 1]
    assert partition.sources.tolist() == [0, 1]
    assert partition.binds(2)
    assert not partition.binds(3)
    alone = Partition(layers={2: [{"depthwise": costs[0]}]})
    alone.choose()
    assert alone.intrinsic.tolist() == [0, 2]
    empty = Partition()
    empty.choose()
    assert not empty.binds(2)
