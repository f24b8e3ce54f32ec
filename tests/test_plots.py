"""Figures show what they say; those of reports are tested beside the reports."""

import matplotlib as mpl
import pytest
import torch
from helpers.networks import Residual, randomize

import ghostify
from ghostify.plots import plot_maps
from ghostify.students.conversion_recipe import recipe_of

mpl.use("Agg")


@pytest.mark.parametrize("ratio", [2, 4])
def test_ghosts_stand_below_the_map_they_are_made_from(ratio):
    torch.manual_seed(0)
    student = ghostify.convert(randomize(Residual(16)), ratio)
    image = torch.randn(3, 8, 8)
    figure = plot_maps(student, "conv1", image)
    assert student.training
    module = student.conv1
    kept, made = (channels.tolist() for channels in module.original_channels())
    sources = module.source_positions().tolist()
    with torch.no_grad():
        maps = student.eval().conv1(student.act(student.stem(image[None])))[0]
    columns = min(8, len(kept))
    shown = [(ax.get_title(), ax.images[0].get_array() if ax.images else None) for ax in figure.axes]
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    first = [int(title) for title, _ in rows[0] if title]
    assert set(first) <= set(kept)
    for row in rows[1:]:
        for (title, drawn), above in zip(row, rows[0], strict=True):
            if title:
                assert kept[sources[made.index(int(title))]] == int(above[0])
                torch.testing.assert_close(torch.as_tensor(drawn), maps[int(title)])


def test_pointwise_ghosts_and_bad_input():
    student = ghostify.convert(randomize(Residual(16)), 2, cheap="pointwise")
    figure = plot_maps(student, "conv2", torch.randn(1, 3, 8, 8), columns=4)
    assert len(figure.axes) == 4 * 3
    with pytest.raises(ghostify.ArgumentError, match="site 'stem' is no Ghost module of this network; it has conv1, conv2"):
        plot_maps(student, "stem", torch.randn(1, 3, 8, 8))
    with pytest.raises(ghostify.ArgumentTypeError, match="image must be a tensor"):
        plot_maps(student, "conv1", [[1, 2]])
    with pytest.raises(ghostify.ArgumentError):
        plot_maps(student, "conv1", torch.randn(1, 4, 8, 8))


def test_absorbed_maps_stand_below_those_that_stay_as_the_original_computes_them():
    torch.manual_seed(0)
    teacher, image = randomize(Residual(16)), torch.randn(3, 8, 8)
    student = ghostify.convert(teacher, 2, cheap="absorbed")
    kept = set(recipe_of(student).narrowed[0].kept)
    with torch.no_grad():
        networks = (teacher.eval(), student.eval())
        maps, own = (net.bn1(net.conv1(net.act(net.stem(image[None]))))[0] for net in networks)
    alone = plot_maps(student, "conv1", image)
    assert "8 of 16 maps" in alone.get_suptitle()
    assert [int(ax.get_title()) for ax in alone.axes] == sorted(kept)
    for ax, drawn in zip(alone.axes, own, strict=True):
        torch.testing.assert_close(torch.as_tensor(ax.images[0].get_array()), drawn)
    both = plot_maps(student, "conv1", image, original=teacher)
    assert "conv2 absorbs below" in both.get_suptitle()
    assert {int(ax.get_title()) for ax in both.axes[8:]} == set(range(16)) - kept
    for ax in both.axes[8:]:
        torch.testing.assert_close(torch.as_tensor(ax.images[0].get_array()), maps[int(ax.get_title())])


def test_absorbed_maps_and_bad_input():
    teacher, image = randomize(Residual(16)), torch.randn(3, 8, 8)
    student = ghostify.convert(teacher, 2, cheap="absorbed")
    with pytest.raises(ghostify.ArgumentError, match="no layer of this network whose maps are partly absorbed; it has conv1"):
        plot_maps(student, "conv2", image)
    with pytest.raises(ghostify.ArgumentError, match="no Ghost modules and no absorbed maps: convert it first"):
        plot_maps(teacher, "conv1", image)
    with pytest.raises(ghostify.ArgumentError, match="original makes 8 maps at 'conv1', not 16"):
        plot_maps(student, "conv1", image, original=student)
    with pytest.raises(ghostify.ArgumentError, match="original Linear has no layer 'bn1'"):
        plot_maps(student, "conv1", image, original=torch.nn.Linear(1, 1))
