import pytest
import torch
from conftest import Residual, randomize

import ghostify
from ghostify.serialization import read_student, write_weights


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return randomize(Residual()).eval()


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
def test_a_calibrated_student_comes_back_from_its_file(teacher, tmp_path, cheap):
    student = ghostify.convert(teacher, 2, cheap=cheap, ratios={"conv2": 4}, linear_ratio=2).eval()
    x = torch.randn(64, 3, 8, 8)
    ghostify.calibrate(student, teacher, x, method="least_squares")
    write_weights(student, tmp_path / "s.safetensors")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    again = read_student(teacher, tmp_path / "s.safetensors").eval()
    assert torch.equal(again(x), student(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert ghostify.report(again, (1, 3, 8, 8)).after == ghostify.report(student, (1, 3, 8, 8)).after


def test_files_that_hold_no_student_are_named(teacher, tmp_path):
    with pytest.raises(ghostify.ArgumentError, match="can't be read"):
        read_student(teacher, tmp_path / "none.safetensors")
    write_weights(teacher, tmp_path / "t.safetensors")
    with pytest.raises(ghostify.ArgumentError, match="no record of a conversion"):
        read_student(teacher, tmp_path / "t.safetensors")
    write_weights(ghostify.convert(Residual(24)), tmp_path / "other.safetensors")
    with pytest.raises(ghostify.ArgumentError, match="another network"):
        read_student(teacher, tmp_path / "other.safetensors")
    write_weights(
        ghostify.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3))), tmp_path / "s.safetensors"
    )
    with pytest.raises(ghostify.ArgumentError, match="no layer '1'"):
        read_student(teacher, tmp_path / "s.safetensors")
