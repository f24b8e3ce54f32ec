"""Sums have one order of channels."""

import pytest
import torch
from helpers.folding import assert_same, left, student_of
from helpers.networks import randomize
from helpers.scenes import detector
from torch import nn

import ghostify
from ghostify.deployment.folded_ghost import FoldedGhost, GhostMaps
from ghostify.deployment.parted_maps import PartedMaps


def test_a_sum_has_one_order_and_the_head_restores_it_after_the_pool():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 3, padding=1)
            self.a, self.b, self.c = (nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)) for _ in range(3))
            self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

        def forward(self, x):
            x = torch.relu(self.a(self.stem(x)))
            x = torch.relu(x + self.b(x))
            x = torch.relu(x + self.c(x))
            return self.head(self.pool(x).flatten(1))

    student = student_of(Net(), "pointwise")
    folded = ghostify.fold(student)
    assert_same(student, folded)
    ghosts = {name: module for name, module in folded.named_modules() if isinstance(module, FoldedGhost)}
    assert sum(module.order is not None for module in ghosts.values()) == len(ghosts) == 2
    assert len(left(folded, "channel order")) == 2
    restores = [node for node in folded.graph.nodes if getattr(node.target, "__name__", "") == "take_channels"]
    assert len(restores) == 1
    assert restores[0].args[0].target == "pool"


class Stream(nn.Module):
    """Blocks that add to one another."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList()
        for kernel in (3, 1, 3, 1):
            first = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
            self.blocks.append(nn.Sequential(*first, nn.Conv2d(32, 32, kernel, padding=kernel // 2), nn.BatchNorm2d(32)))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
def test_an_aligned_student_restores_no_order_in_its_sums(cheap):
    """Each block has another cheap operation with auto, and all have the same intrinsic channels."""
    torch.manual_seed(0)
    teacher, images = randomize(Stream()), torch.randn(32, 3, 16, 16)
    ghostify.reestimate_norms(teacher, images)
    teacher.eval()
    counts = []
    for align in (True, False):
        student = ghostify.convert(teacher, 2, cheap=cheap, skip=()).eval()
        ghostify.calibrate(student, teacher, images, method="least_squares", align=align)
        folded = ghostify.fold(student)
        assert_same(student, folded)
        student.float()
        counts.append(sum(isinstance(module, FoldedGhost) for module in folded.modules()))
        if align:
            assert not any(module.source is not None for module in folded.modules() if isinstance(module, GhostMaps))
            assert {name for name, module in folded.named_modules() if isinstance(module, PartedMaps)} == {"pool.joined"}
    assert counts[0] == 0
    assert counts[1] >= 3


class JoinedSignals(nn.Module):
    """A concatenation of one-dimensional maps whose reader needs the original order."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(3, 16, 3, padding=1)
        self.head = nn.Linear(32 * 8, 4)

    def forward(self, x):
        return self.head(torch.cat([self.first(x), self.second(x)], 1).flatten(1))


class GatedByOneMap(nn.Module):
    """A map of one channel that acts on all channels of another, as of spatial attention."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x * torch.sigmoid(self.gate(x)))


class GatedByItsPart(nn.Module):
    """A concatenation that is multiplied by one of the maps it joins."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(17, 8, 1)

    def forward(self, x):
        x = self.first(x)
        mean = x.mean(1, keepdim=True)
        return self.last(torch.cat([x, mean], 1) * mean)


class MeanOfSignals(nn.Module):
    """A mean over dimension -2, the channels of one-dimensional maps, beside those maps."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(3, 16, 3, padding=1), nn.Conv1d(17, 8, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(torch.cat([x, x.mean([-2], keepdim=True)], 1))


class LeavesAndComesBack(nn.Module):
    """Maps times their own means, whose dimensions of places went and came back on the way."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.first(x)
        return self.last(x * x.mean((2, 3))[:, :, None, None])


class JoinedAndAdded(nn.Module):
    """Two concatenations that are added: run by run, each has the order of its channels in common with the other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 16, 3, padding=1) for _ in range(4))
        self.norm, self.last = nn.BatchNorm2d(32), nn.Conv2d(32, 8, 1)

    def forward(self, x):
        a, b, c, d = (layer(x) for layer in self.layers)
        return self.last(self.norm(torch.cat([a, b], 1) + torch.cat([c, d], 1)).relu())


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        *((MeanOfSignals, (2, 3, 8)), (LeavesAndComesBack, (2, 3, 8, 8)), (JoinedAndAdded, (2, 3, 8, 8))),
        *((JoinedSignals, (2, 3, 8)), (GatedByOneMap, (2, 3, 8, 8)), (GatedByItsPart, (2, 3, 8, 8))),
    ],
)
def test_values_of_different_numbers_of_channels_and_dimensions(network, shape):
    torch.manual_seed(0)
    student = ghostify.convert(randomize(network()), 2, skip=(), min_channels=1).eval()
    x = torch.randn(shape)
    torch.testing.assert_close(ghostify.fold(student)(x), student(x), rtol=1e-4, atol=1e-5)


def test_concatenations_that_are_added_have_an_order_in_common_run_by_run():
    student = student_of(JoinedAndAdded(), skip=())
    folded = ghostify.fold(student)
    assert_same(student, folded)
    assert {name for name in left(folded, "channel order") if name != "last"} == {"layers.0", "layers.1"}


def test_maps_whose_new_size_is_that_of_others_keep_their_order():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 8, 1)

        def forward(self, x):
            return self.last(nn.functional.interpolate(self.first(x), size=x.shape[-2:]))

    student = student_of(Net(), skip=())
    folded = ghostify.fold(student)
    assert_same(student, folded)
    assert "first" not in left(folded, "channel order")


def test_a_pyramid_whose_maps_take_the_size_of_larger_ones_has_one_order():
    student = student_of(detector("retinanet"), "pointwise").double()
    folded = ghostify.fold(student)
    images = torch.rand(1, 3, 96, 112).double()
    with torch.no_grad():
        for wanted, given in zip(student.backbone(images).values(), folded.backbone(images).values(), strict=True):
            torch.testing.assert_close(given, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))
    assert [name for name in left(folded, "channel order") if "inner_blocks" in name] == ["backbone.fpn.inner_blocks.0.0"]
