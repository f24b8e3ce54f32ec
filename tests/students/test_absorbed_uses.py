"""What users do with students with absorbed ghosts: train them, share them, in any precision and mode."""

import copy
import pickle

import pytest
import torch
from helpers.calibration import X, error, trained
from helpers.networks import Residual
from torch import fx

import ghostify

TEACHER = trained(Residual(32))


def student_of(model=TEACHER):
    return ghostify.convert(model, 2, cheap="absorbed")


def build():
    return Residual(32)


def test_distillation_writes_a_student_that_loads_and_resumes(tmp_path):
    recipe = ghostify.Recipe(epochs=2, lr=0.01)
    student, again = student_of(), student_of()
    ghostify.distill(student, TEACHER, X, recipe=recipe, out=tmp_path)
    loaded = ghostify.load(tmp_path / "student.safetensors", build).eval()
    assert torch.equal(loaded(X), student.eval()(X))
    ghostify.distill(again, TEACHER, X, recipe=recipe, out=tmp_path, resume=True)
    assert torch.equal(again.eval()(X), student(X))


def test_a_folder_copies_and_pickles_give_the_same(tmp_path):
    student = student_of()
    ghostify.calibrate(student, TEACHER, X, method="least_squares")
    ghostify.save(student, tmp_path / "folder")
    for other in (
        ghostify.load(tmp_path / "folder", build).eval(),
        copy.deepcopy(student),
        pickle.loads(pickle.dumps(student)),
        torch.compile(student, backend="eager"),
    ):
        assert torch.equal(other(X), student(X))
    assert ghostify.report(copy.deepcopy(student), X[:1]) == ghostify.report(student, X[:1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_half_precision(dtype):
    teacher, x = copy.deepcopy(TEACHER).to(dtype), X.to(dtype)
    student = student_of(teacher)
    before = error(student.float(), TEACHER, X)
    student.to(dtype)
    ghostify.calibrate(student, teacher, x, method="least_squares")
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert error(student.float(), TEACHER, X) < 0.5 * before


def test_a_graph_module_is_calibrated_and_saved(tmp_path):
    traced = fx.symbolic_trace(TEACHER)
    student = student_of(traced)
    ghostify.calibrate(student, traced, X, method="least_squares")
    ghostify.save(student, tmp_path / "s.safetensors")
    loaded = ghostify.load(tmp_path / "s.safetensors", lambda: fx.symbolic_trace(build())).eval()
    assert torch.equal(loaded(X), student(X))


def test_mode_and_flags_survive_calibration():
    teacher = copy.deepcopy(TEACHER).train()
    for name, parameter in teacher.named_parameters():
        parameter.requires_grad_("conv2" not in name)
    student, other = student_of(teacher), student_of()
    for one, original in ((student, teacher), (other, TEACHER)):
        ghostify.calibrate(one, original, X, method="least_squares")
    assert all(module.training for network in (student, teacher) for module in network.modules())
    assert [name for name, p in student.named_parameters() if not p.requires_grad] == ["conv2.weight"]
    assert torch.equal(student.eval()(X), other(X))


@pytest.mark.slow
def test_a_detector_is_calibrated_through_its_parts():
    import torchvision

    build_detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    detector = build_detector(weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96).eval()
    x = torch.rand(4, 3, 96, 96)
    student = student_of(detector)

    def apart():
        pairs = zip(student.backbone(x).values(), detector.backbone(x).values(), strict=True)
        return sum(float((one - wanted).norm() / wanted.norm()) for one, wanted in pairs)

    with torch.no_grad():
        before = apart()
        assert ghostify.calibrate(student, detector, x, method="least_squares").fitted
        assert apart() < 0.1 * before
        assert student(list(x[:1]))[0].keys() == {"boxes", "labels", "scores"}
