"""calibrate() on students with absorbed ghosts: maps chosen by the images, readers refitted on the converted prefix."""

import copy

import pytest
import torch
import torchvision
from helpers.networks import Residual, randomize
from torch import nn

import ghostify
from ghostify import ArgumentError
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.settings import Settings
from ghostify.students.conversion_recipe import recipe_of


def images(count=24, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def pair(model, ratio=2, **settings):
    teacher = randomize(model).eval()
    return teacher, ghostify.convert(teacher, ratio, cheap="absorbed", min_channels=1, round_to=1, **settings)


@torch.no_grad()
def error(student, teacher, x):
    want = teacher.eval()(x)
    return float((student.eval()(x) - want).square().sum() / (want - want.mean(0)).square().sum())


class Chain(nn.Module):
    """Layers one after the other, with a gate, a depthwise convolution and a fully connected pair, and no shortcut."""

    def __init__(self):
        super().__init__()
        self.a, self.na, self.act = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True)
        self.depthwise, self.nd = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.b, self.nb = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.c, self.nc = nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.fc, self.last = nn.Linear(16, 20), nn.Linear(20, 5)

    def forward(self, x):
        x = self.act(self.nd(self.depthwise(self.act(self.na(self.a(x))))))
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.act(self.nc(self.c(self.act(self.nb(self.b(x))))))
        return self.last(self.fc(x.mean((2, 3))).relu())


class TwoKernels(nn.Module):
    """Sums of depthwise convolutions of two sizes, all maps of which are those of one span."""

    def __init__(self):
        super().__init__()
        self.expand = nn.ModuleList(nn.Sequential(nn.Conv2d(c, 16, 1), nn.BatchNorm2d(16), nn.ReLU()) for c in (3, 8))
        self.large = nn.ModuleList(nn.Conv2d(16, 16, 5, padding=2, groups=16) for _ in range(2))
        self.small = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(2))
        self.project = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(2))

    def forward(self, x):
        for expand, large, small, project in zip(self.expand, self.large, self.small, self.project, strict=True):
            x = expand(x)
            x = project((large(x) + small(x)).relu())
        return x.mean((2, 3))


NETWORKS = {
    "chain": Chain,
    "two kernels": TwoKernels,
    "residual": Residual,
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=10),
    "mobilenet": lambda: torchvision.models.MobileNetV2(num_classes=10, width_mult=0.25),
}


@pytest.mark.parametrize("method", ["least_squares", "block"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_calibration_brings_a_student_closer_to_its_teacher(network, method):
    torch.manual_seed(0)
    teacher, student = pair(network(), skip=())
    before, shapes = error(student, teacher, images()), {k: v.shape for k, v in student.state_dict().items()}
    report = ghostify.calibrate(student, teacher, images(), method=method, steps=20, copies=0)
    assert error(student, teacher, images()) < before
    assert {k: v.shape for k, v in student.state_dict().items()} == shapes
    readers = {name for span in ghostify.report(student, images(1)).spans if span.reason is None for name in span.readers}
    assert {site.name for site in report.fitted} == readers
    assert all(site.cheap == "absorbed" and site.after <= site.before for site in report.fitted)


def test_blocks_come_closer_than_the_closed_form():
    torch.manual_seed(0)
    teacher, student = pair(Chain(), skip=())
    other = copy.deepcopy(student)
    ghostify.calibrate(student, teacher, images(), method="least_squares")
    ghostify.calibrate(other, teacher, images(), steps=100, copies=0)
    assert error(other, teacher, images()) < error(student, teacher, images())


@pytest.mark.parametrize("network", [Chain, Residual])
def test_maps_that_others_make_up_for_are_absorbed_without_a_loss(network):
    """Half of the maps of each span are copies of others: what is left computes the same."""
    torch.manual_seed(0)
    teacher = randomize(network()).double().eval()
    with torch.no_grad():
        for record in ghostify.report(
            ghostify.convert(teacher, 2, cheap="absorbed", min_channels=1, skip=(), round_to=1)
        ).spans:
            if record.reason is None:
                half = record.channels // 2
                for name in (*record.makers, *record.carriers):
                    _copy_first_half(teacher, name, half)
    student = ghostify.convert(teacher, 2, cheap="absorbed", min_channels=1, skip=(), round_to=1)
    ghostify.calibrate(student, teacher, images(64).double(), method="least_squares", ridge=1e-9)
    assert error(student, teacher, images().double()) < 1e-8


def _copy_first_half(teacher, name, half):
    module = teacher.get_submodule(name)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.dim() and tensor.shape[0] == 2 * half:
            tensor[half:] = tensor[:half]


def test_the_recipe_says_which_maps_stayed_and_a_file_keeps_them(tmp_path):
    torch.manual_seed(0)
    teacher, student = pair(Chain(), skip=())
    ghostify.calibrate(student, teacher, images(), method="least_squares")
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", Chain)
    assert torch.equal(loaded(images()), student(images()))
    again = ghostify.calibrate(loaded, teacher, images(), method="least_squares")
    assert again.fitted


def test_without_a_choice_by_the_images_the_maps_of_the_conversion_stay_and_readers_are_refitted():
    teacher, student = pair(Chain())
    before = recipe_of(student)
    chosen = copy.deepcopy(student)
    ghostify.calibrate(chosen, teacher, images(), method="least_squares")
    was = error(student, teacher, images())
    calibrate_with(student, teacher, images(), Settings(choose=False))
    assert [record.kept for record in recipe_of(student).spans] == [record.kept for record in before.spans]
    assert [record.kept for record in recipe_of(chosen).spans] != [record.kept for record in before.spans]
    assert error(student, teacher, images()) < 0.7 * was


def test_results_are_the_same_at_every_run_and_an_error_changes_nothing():
    torch.manual_seed(0)
    teacher, student = pair(Chain(), skip=())
    start, twin = copy.deepcopy(student.state_dict()), copy.deepcopy(student)
    with pytest.raises(ArgumentError):
        ghostify.calibrate(student, teacher, images() * torch.nan)
    assert all(torch.equal(start[name], value) for name, value in student.state_dict().items())
    for one in (student, twin):
        ghostify.calibrate(one, teacher, images(), method="least_squares")
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in student.state_dict().items())


def test_another_teacher_and_the_wrong_order_are_refused():
    _, student = pair(Chain(), skip=())
    with pytest.raises(ArgumentError, match="absorbed ghosts itself"):
        ghostify.calibrate(student, copy.deepcopy(student), images())
    wider = Chain()
    wider.b, wider.nb, wider.c = nn.Conv2d(12, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 16, 3)
    with pytest.raises(ArgumentError, match="not the student's original"):
        ghostify.calibrate(student, wider, images())
