"""Bad input to calibrate() gets one sentence and changes nothing."""

import copy

import numpy as np
import pytest
import torch
from helpers.calibration import TEACHER, X, images, state, trained, unchanged
from helpers.networks import Residual
from torch import nn

import ghostify


def poisoned(model):
    model = copy.deepcopy(model)
    next(model.parameters()).data[0] = torch.nan
    return model


def another_head(student):
    name, head = [(n, m) for n, m in student.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, child = name.rpartition(".")
    setattr(student.get_submodule(parent), child, nn.Linear(head.in_features, 3))
    return student


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "no image"),
        ({"images": torch.zeros(0, 3, 12, 12)}, "no image"),
        ({"images": X[0]}, "do not fit"),
        ({"images": X[0, 0]}, "shape"),
        ({"images": images(8, channels=4)}, "do not fit"),
        ({"images": (X * 255).clamp(0, 255).to(torch.uint8)}, "uint8"),
        ({"images": X.masked_fill(X > 1, torch.nan)}, "NaN"),
        ({"images": X * 255}, "another range"),
        ({"images": 3}, "images must be"),
        ({"images": ["a"]}, "must be a tensor"),
        ({"images": [{"label": 1}]}, "pixel_values"),
        ({"images": "nowhere"}, "neither a folder"),
        ({"method": "magic"}, "method"),
        ({"max_images": 0}, "max_images"),
        ({"max_images": 2.5}, "max_images"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"seed": None}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"images": np.array([["a"]], dtype=object)}, "array of object"),
        ({"images": X.to_sparse()}, "sparse"),
        ({"images": X.to("meta")}, "meta"),
        ({"images": list(X)}, "single images"),
        ({"teacher": copy.deepcopy(TEACHER).double()}, "one precision"),
        ({"teacher": poisoned(TEACHER)}, "NaN or infinite weights in"),
        ({"student": another_head(ghostify.convert(TEACHER, 2))}, "the student's"),
        ({"copies": -1}, "copies"),
        ({"copies": 1.5}, "copies"),
        ({"lr": -1}, "lr"),
        ({"ridge": 0}, "ridge"),
        ({"teacher": Residual(24)}, "has other|is 24|→"),
        ({"teacher": trained(nn.Sequential(Residual()))}, "no layer 'conv1'"),
        ({"teacher": trained(Residual(act=nn.Identity))}, "other weights|other layers"),
        ({"teacher": ghostify.convert(TEACHER, 2)}, "Ghost modules itself"),
        ({"teacher": None}, "teacher must be"),
        ({"student": TEACHER}, "ghostify.convert"),
        ({"student": 1}, "student must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_bad_input_is_one_sentence_and_changes_nothing(changes, message):
    student = ghostify.convert(TEACHER, 2)
    before = state(student)
    arguments = {"student": student, "teacher": TEACHER, "images": X, **changes}
    with pytest.raises(ghostify.GhostifyError, match=message) as caught:
        ghostify.calibrate(**arguments)
    assert "\n" not in str(caught.value)
    assert unchanged(student, before)


def test_a_network_of_two_inputs_is_told_that_it_gets_one():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16, 4)

        def forward(self, image, mask, scale=1.0):
            return self.c((self.b(self.a(image * mask).relu()) * scale).mean((2, 3)))

    teacher = Masked().eval()
    for batches in (torch.randn(8, 3, 8, 8), [(torch.randn(8, 3, 8, 8), torch.ones(8, 1, 8, 8))]):
        with pytest.raises(ghostify.ArgumentError, match=r"Masked takes 2 inputs \(image, mask\), and images gives it one"):
            ghostify.calibrate(ghostify.convert(teacher, 2), teacher, batches)


@pytest.mark.parametrize("cheap", ["pointwise", "absorbed"])
def test_frozen_parameters_that_are_rewritten_are_told(cheap):
    teacher = Residual().eval()
    teacher.conv2.requires_grad_(False)
    student = ghostify.convert(teacher, 2, cheap=cheap, ratios={"conv1": 3})
    report = ghostify.calibrate(student, teacher, torch.randn(48, 3, 8, 8), method="least_squares")
    (note,) = [note for note in report.notes if "frozen" in note]
    assert "conv2." in note
    assert "frozen" in report.summary()
    assert not next(student.conv2.parameters()).requires_grad


def test_trainable_parameters_need_no_note():
    teacher = Residual().eval()
    report = ghostify.calibrate(ghostify.convert(teacher, 2), teacher, torch.randn(48, 3, 8, 8), method="least_squares")
    assert not [note for note in report.notes if "frozen" in note]


@pytest.mark.filterwarnings("ignore:images may lack")
def test_a_teacher_that_was_built_in_inference_mode_is_calibrated_to():
    with torch.inference_mode():
        teacher = Residual().eval()
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, images(32), steps=2)
    assert report.fitted
