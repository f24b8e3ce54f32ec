"""Buffers that a network's own code writes into are what they were after passes of ours."""

import pytest
import torch
from torch import nn

import ghostify
from ghostify.common.buffers import kept_buffers


class Counting(nn.Module):
    """Counts its calls, in a buffer that is written into or that becomes another one."""

    def __init__(self, in_place=True):
        super().__init__()
        self.in_place = in_place
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)
        )
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.seen = torch.zeros(2)

    def forward(self, x):
        if self.in_place:
            self.calls += 1
            self.seen += 1
        else:
            self.calls = self.calls + 1
            self.seen = self.seen + 1
        return self.body(x).mean((2, 3))


X = torch.randn(40, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("in_place", [True, False])
def test_tensors_are_what_they_were_after_an_error_too(in_place):
    model = Counting(in_place).eval()
    buffers = dict(model.named_buffers())

    def run():
        with kept_buffers(model) as before:
            model(X[:2])
            assert before.changed() == ["calls", "seen"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert all(model.get_buffer(name) is buffer for name, buffer in buffers.items())
    assert model.calls == 0
    assert model.seen.tolist() == [0, 0]


def test_what_no_pass_changes_is_not_written_to():
    model = nn.Module()
    for name, buffer in {
        "nan": torch.full((), torch.nan).expand(3),  # torch refuses to write into it
        "meta": torch.empty(2, device="meta"),
        "sparse": torch.eye(2).to_sparse(),
        "empty": torch.empty(0),
        "complex": torch.ones(2, dtype=torch.complex64).conj(),
        "flags": torch.tensor(True),
    }.items():
        model.register_buffer(name, buffer)
    with kept_buffers(model) as before:
        pass
    assert before.changed() == []
    assert model.flags._version == 0


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("cheap", ["pointwise", "absorbed"])
def test_calibration_writes_into_no_counter_of_either_network(cheap, in_place):
    teacher = Counting(in_place).eval()
    student = ghostify.convert(teacher, 2, cheap=cheap)
    student.calls += 5
    seen = teacher.seen.clone()
    ghostify.calibrate(student, teacher, X, method="least_squares")
    assert (teacher.calls, student.calls) == (0, 5)
    assert torch.equal(teacher.seen, seen)


def test_a_calibration_that_fails_leaves_the_teacher_as_it_was():
    teacher = Counting().eval()
    student = ghostify.convert(teacher, 2)

    def batches():
        yield X[:8]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ghostify.calibrate(student, teacher, batches())
    assert (teacher.calls, student.calls) == (0, 0)


def test_norms_that_calibration_sets_keep_what_it_sets():
    teacher = Counting().eval()
    student = ghostify.convert(teacher, 2, cheap="absorbed")
    before = student.body[1].running_mean.clone()
    ghostify.calibrate(student, teacher, X, method="least_squares")
    assert not torch.equal(student.body[1].running_mean, before)


@pytest.mark.parametrize("limit", [{"target": {"flops": 0.6}}, {"max_drop": 0.9}])
def test_compression_writes_into_no_counter(limit):
    teacher = Counting().eval()
    result = ghostify.compress(teacher, X, **limit)
    assert (teacher.calls, result.student.calls) == (0, 0)
    assert teacher.seen.tolist() == [0, 0]
