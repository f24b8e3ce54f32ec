"""Transposed convolutions make and read maps that are absorbed; what stays of them is reported, saved and folded."""

import torch
from helpers.networks import Upwards, randomize
from torch import nn

import ghostify


def test_a_student_of_transposed_convolutions_is_calibrated_saved_and_folded(tmp_path, capsys):
    model, x = randomize(Upwards()), torch.randn(8, 3, 16, 16)
    model.norm.momentum = None  # one pass gives the norm the statistics of these images
    model.train()(x)
    model.eval()
    student = ghostify.convert(model, 2, cheap="absorbed", example_input=x, skip=())
    report = ghostify.report(student, x)
    assert report.reached == 1
    assert student.up.weight.shape == (6, 4, 2, 2)
    assert student.up_more.weight.shape == (8, 4, 3, 3)
    before = off(student, model, x)
    ghostify.calibrate(student, model, x, method="least_squares", progress=True)
    assert "6/6" in capsys.readouterr().err
    assert off(student, model, x) < before / 2
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", Upwards)
    assert torch.equal(loaded(x), student(x))
    torch.testing.assert_close(ghostify.fold(student)(x), student(x))


def test_without_images_the_bias_makes_up_for_the_mean_of_maps_that_go():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 3, stride=2), nn.Conv2d(4, 2, 1)).eval()
    nn.init.uniform_(model[0].bias, 5, 6)
    student = ghostify.convert(model, 2, cheap="absorbed", example_input=torch.randn(2, 3, 32, 32), ratios={"1": None}, skip=())
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        wanted, given = (network[:2](x).mean((0, 2, 3)) for network in (model, student))
    assert student[1].in_channels == 4
    torch.testing.assert_close(given, wanted, rtol=0, atol=0.05 * float(wanted.abs().max()))


def test_a_transposed_convolution_stays_dense_for_the_reason_of_its_span():
    layers = (nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 4, 3), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1))
    student = ghostify.convert(nn.Sequential(*layers), 2, cheap="absorbed", example_input=torch.randn(2, 3, 8, 8))
    reasons = {row.name: row.reason for row in ghostify.report(student).rows}
    assert reasons["2"] == "too few channels to save anything: 4"


def off(student: nn.Module, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((student(x) - model(x)).square().sum() / model(x).square().sum())
