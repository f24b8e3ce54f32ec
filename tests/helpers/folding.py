"""Students to fold, and how their outputs compare."""

import torch

import ghostify
from helpers.networks import randomize


def student_of(model, cheap="auto", ratio=2, **settings):
    torch.manual_seed(0)
    return ghostify.convert(randomize(model), ratio, cheap=cheap, **settings).eval()


def assert_same(student, folded, *shape):
    x = torch.randn(2, *(shape or (3, 16, 16)))
    with torch.no_grad():
        wanted, given = student.double()(x.double()), folded.double()(x.double())
    torch.testing.assert_close(given, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def left(folded, kind):
    return {part.name: part.reason for part in folded.folding.parts if part.kind == kind and part.reason}
