"""Networks that ask for the type or the device of a layer's weight, and not for its values."""

import copy

import pytest
import torch
from torch import nn

import ghostify
from ghostify import GhostModule, ReducedLinear, UnsupportedModelError
from ghostify.layers.absent_weight import AbsentWeight


class Cast(nn.Module):
    """Casts what it gets to the types of its layers, as networks of mixed precision do."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second, self.inner, self.out = nn.Conv2d(16, 16, 3, groups=2), nn.Linear(16, 24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.stem(x.to(device=self.stem.weight.device, dtype=self.stem.weight.dtype))
        x = self.norm(self.conv(x.to(self.conv.weight.dtype))).relu()
        x = self.second(x.to(self.second.weight.device, self.second.weight.dtype)).relu().mean((2, 3))
        return self.out(self.inner(x.to(self.inner.weight.dtype)).relu())


@pytest.mark.parametrize("cheap", ["depthwise", "absorbed"])
def test_a_layer_whose_type_is_asked_for_is_converted(cheap, tmp_path):
    teacher, x = Cast().eval(), torch.randn(40, 3, 10, 10)
    student = ghostify.convert(teacher, 2, cheap=cheap, **({} if cheap == "absorbed" else {"linear_ratio": 2}))
    report = ghostify.report(student, (1, 3, 10, 10))
    assert report.reached == 1
    if cheap != "absorbed":
        assert isinstance(student.conv, GhostModule)
        assert isinstance(student.inner, ReducedLinear)
    ghostify.calibrate(student, teacher, x, method="least_squares")
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", Cast)
    with torch.no_grad():
        for network in (loaded, copy.deepcopy(student), ghostify.fold(student)):
            torch.testing.assert_close(network(x), student(x), atol=1e-5, rtol=1e-4)
        assert copy.deepcopy(student).to(torch.bfloat16)(x).dtype == torch.bfloat16


def test_what_reads_the_values_stays_dense():
    class Reads(Cast):
        def forward(self, x):
            return super().forward(x) + self.conv.weight.mean()

    (reason,) = (row.reason for row in ghostify.report(ghostify.convert(Reads().eval(), 2)).rows if row.name == "conv")
    assert reason == "its weights are read from outside"


def test_an_absent_weight_has_a_type_and_no_values():
    weight = AbsentWeight.like(torch.zeros(2, 3, dtype=torch.float64), (8, 4, 3, 3))
    assert (weight.dtype, weight.device, weight.shape, weight.dim()) == (torch.float64, torch.device("cpu"), (8, 4, 3, 3), 4)
    maps = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
    for read in (lambda: weight + 1, weight.sum, lambda: torch.nn.functional.conv2d(maps, weight), lambda: maps.to(weight)):
        with pytest.raises(UnsupportedModelError, match="cheap='absorbed'"):
            read()
