"""Which channels stay, and what makes the others."""

import pytest
import torch
from helpers.calibration import NETWORKS, images, trained
from torch import nn

import ghostify
from ghostify.calibration.channel_choice import choose_pointwise


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
    ghostify.calibrate(student, teacher, x, method=method, steps=20)
    held_out = torch.randn(16, 6, 10, 10)
    assert (student(held_out) - teacher(held_out)).abs().max() < 1e-4 * teacher(held_out).abs().max()
    ghost = student[0]
    kept, made = ghost.original_channels()
    assert set(shuffle[kept].tolist()) == set(range(8))
    source = dict(zip(shuffle[made].tolist(), shuffle[kept][ghost.source_positions()].tolist(), strict=True))
    assert source == {8 + i: int(j) for i, j in enumerate(made_from)}


def test_pointwise_choice_is_a_basis_where_there_is_one():
    torch.manual_seed(0)
    basis = torch.randn(1000, 4)
    maps = basis @ torch.randn(4, 12)
    maps[:, [2, 5, 7, 9]] = basis
    chosen, left_over = choose_pointwise(maps.T @ maps / 1000, 4)
    assert left_over < 1e-4
    left = maps - maps[:, chosen] @ torch.linalg.lstsq(maps[:, chosen], maps).solution
    assert left.abs().max() < 1e-3


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
