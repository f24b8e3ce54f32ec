"""Copies of images, mirrored and shifted."""

import torch
from helpers.calibration import images

from ghostify.inputs.augment import copied


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
