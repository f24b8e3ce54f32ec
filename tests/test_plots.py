"""Figures show what they say; those of reports are tested beside the reports."""

import matplotlib as mpl
import pytest
import torch
from helpers.networks import Residual, randomize

import ghostify
from ghostify.plots import plot_maps

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
