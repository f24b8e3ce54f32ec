"""calibrate(): what changes, what stays as it was, and what the report says."""

import copy
import itertools

import pytest
import torch
from helpers.calibration import TEACHER, X, error, images, state, trained, unchanged
from helpers.networks import Residual

import ghostify
from ghostify.calibration.site_fit import SiteFit
from ghostify.calibration.transplant import replace_module
from ghostify.students.conversion_recipe import recipe_of


def test_in_place_and_the_teacher_as_it_was():
    teacher = trained(Residual()).train()
    teacher.conv1.eval()
    student = ghostify.convert(teacher, 2)
    student.train()
    parameters, modules = list(map(id, student.parameters())), list(map(id, student.modules()))
    before, modes = state(teacher), [m.training for m in teacher.modules()]
    random = torch.get_rng_state()
    ghostify.calibrate(student, teacher, images(), steps=20)
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
        monkeypatch.setattr(SiteFit, "fit", second(SiteFit.fit))
    if where == "commit":
        monkeypatch.setattr("ghostify.calibration.transplant.replace_module", second(replace_module))
    with pytest.raises(error):
        ghostify.calibrate(student, teacher, batches(), method="least_squares")
    assert unchanged(student, before)
    assert recipe_of(student) is recipe


def test_the_same_twice_gives_the_same():
    teacher = trained(Residual())
    outputs = []
    for _ in range(2):
        student = ghostify.convert(teacher, 2)
        ghostify.calibrate(student, teacher, images(), steps=40)
        outputs.append(student(images(4)))
    assert torch.equal(*outputs)


def test_a_graph_module_and_half_precision():
    teacher = torch.fx.symbolic_trace(trained(Residual()))
    student = ghostify.convert(teacher, 2)
    before = error(student, teacher, images(seed=3))
    ghostify.calibrate(student, teacher, images(), steps=40)
    assert isinstance(student, torch.fx.GraphModule)
    assert error(student, teacher, images(seed=3)) < before
    low = copy.deepcopy(trained(Residual())).to(torch.bfloat16)
    student = ghostify.convert(low, 2)
    ghostify.calibrate(student, low, images().to(torch.bfloat16), method="least_squares")
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    assert error(student.float(), low.float(), images(seed=3)) < before


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


def test_the_report_prints_plots_and_exports():
    student = ghostify.convert(TEACHER, 2)
    report = ghostify.calibrate(student, TEACHER, X, steps=5)
    frame = report.to_frame()
    assert list(frame.index) == ["conv1", "conv2"]
    assert {"before", "after", "cheap"} <= set(frame.columns)
    assert "2 of 2 sites fitted to 8 images" in str(report)
    axes = report.plot()
    assert len(axes.lines) == 2
    assert '"conv1"' in report.to_json()
