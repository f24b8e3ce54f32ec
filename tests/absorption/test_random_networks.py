"""Properties of absorbed ghosts that hold on networks of any layers."""

import copy
import random

import pytest
import torch
from helpers.absorption import apart, calls_of, free_spans, halved, with_copies
from helpers.random_networks import RandomNetwork, random_images, random_network
from helpers.spans import differences, narrowed, some
from torch import nn

import ghostify
from ghostify.absorption.survey import SurveySettings
from ghostify.errors import UnsupportedModelError


def seeds(few, many):
    """Some for every run, and more that are slow together."""
    return [*range(few), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(few, many))]


@pytest.mark.parametrize("seed", seeds(24, 150))
def test_with_all_maps_kept_nothing_changes_in_a_bit(seed):
    model = random_network(seed)
    x = random_images(model, 2)
    with torch.no_grad():
        assert torch.equal(narrowed(model, [some(span, 1.0) for span in free_spans(model)])(x), model(x))


@pytest.mark.parametrize("seed", seeds(24, 150))
def test_a_narrowed_network_computes_what_the_original_does_without_the_maps(seed):
    model = random_network(seed).double()
    generator = random.Random(seed)
    spans = [span for span in free_spans(model) if generator.random() < 0.8]
    chosen = [some(span, generator.random(), seed) for span in spans]
    far = differences(model, chosen, (random_images(model, 2).double(),))
    assert max(far.values()) < 1e-9, far


@pytest.mark.parametrize("seed", seeds(12, 60))
def test_maps_that_repeat_are_absorbed_exactly(seed):
    """On the images, and on others where there are more images than a layer has unknowns."""
    model = with_copies(random_network(seed).double())
    images = random_images(model, 96).double()
    student, survey = halved(model, calls_of(images), SurveySettings(ridge=1e-12))
    assert apart(model, student, images) < 1e-5, survey.spans
    if all(layer.in_features < 96 for layer in model.modules() if isinstance(layer, nn.Linear)):
        assert apart(model, student, random_images(model, 4, seed=1).double()) < 1e-5, survey.spans


def student_of(teacher):
    try:
        return ghostify.convert(teacher, 2, cheap="absorbed", min_channels=1, round_to=1, skip=())
    except UnsupportedModelError:
        assert all(span.channels // span.groups == 1 for span in free_spans(teacher))
        return None


@pytest.mark.parametrize("seed", seeds(12, 60))
def test_a_student_is_reported_saved_calibrated_and_folded(seed, tmp_path):
    teacher = random_network(seed)
    ghostify.reestimate_norms(teacher, random_images(teacher, 32))
    before, student = copy.deepcopy(teacher.state_dict()), student_of(teacher)
    if student is None:
        return
    x = random_images(teacher, 16)
    ghostify.calibrate(student, teacher, x, method="least_squares")
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    with torch.no_grad():
        output = student(x)
    assert output.shape == (16, 5)
    assert output.isfinite().all()
    report = ghostify.report(student, x[:1])
    assert report.before.params == sum(p.numel() for p in teacher.parameters())
    assert report.after.params == sum(p.numel() for p in student.parameters())
    counted = ghostify.report(student, x[:1], counter="fvcore")
    assert (counted.before.flops, counted.after.flops) == (report.before.flops, report.after.flops)
    ghostify.save(student, tmp_path / "s.safetensors")
    loaded = ghostify.load(tmp_path / "s.safetensors", lambda: RandomNetwork(seed)).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), output)
        torch.testing.assert_close(ghostify.fold(student)(x), output, rtol=1e-3, atol=1e-4 * float(output.abs().max()))
