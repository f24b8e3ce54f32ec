"""distill(): the student comes nearer to its teacher, whatever the settings."""

import random

import numpy as np
import pytest
import torch
from helpers.weights import has_weights, weights_of
from torch import nn
from torch.utils.data import DataLoader

import ghostify
from ghostify import Recipe
from ghostify.distillation.precision import cpu_computes_in


def test_training_brings_the_student_nearer_to_its_teacher(pair, images):
    teacher, student = pair
    before = weights_of(teacher)

    def distance():
        with torch.no_grad():
            return (student.eval()(images) - teacher(images)).square().mean().item()

    start = distance()
    told = ghostify.distill(student, teacher, images, recipe=Recipe(steps=150, batch_size=32, lr=0.02))
    assert distance() < 0.5 * start
    assert told.steps == 150
    assert told.epochs[-1].loss < told.epochs[1].loss
    assert has_weights(teacher, before)
    assert "150 steps" in str(told)
    assert list(told.to_frame().index) == [row.epoch for row in told.epochs]


def test_random_states_and_modes_of_the_caller_stay(pair, images):
    teacher, student = pair
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    student.train()
    ghostify.distill(student, teacher, images, recipe=Recipe(steps=2, mixup=0.2))
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert student.training
    assert not teacher.training


def test_equal_seeds_give_equal_weights_and_others_do_not(pair, images):
    teacher, student = pair
    start = weights_of(student)

    def trained(seed):
        student.load_state_dict(start)
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=3, seed=seed))
        return weights_of(student)

    first = trained(0)
    assert has_weights(student, first)
    assert all(torch.equal(first[name], tensor) for name, tensor in trained(0).items())
    assert not all(torch.equal(first[name], tensor) for name, tensor in trained(1).items())


def test_accumulated_batches_make_the_step_of_one_large_batch(images):
    """Without norms, which see single batches."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = []
    for size, accumulate in ((32, 1), (8, 4)):
        student = ghostify.convert(teacher, 2, skip=("first",))
        loader = DataLoader(images[:64], size)
        recipe = Recipe(epochs=1, accumulate=accumulate, features=0, schedule="constant")
        ghostify.distill(student, teacher, loader, recipe=recipe)
        found.append(weights_of(student))
    assert all(torch.allclose(found[0][name], tensor, atol=1e-5) for name, tensor in found[1].items())


@pytest.mark.parametrize(
    "settings",
    [
        {"ema": 0.9},
        {"labels": 1.0, "mixup": 0.2, "cutmix": 1.0},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": True, "clip": 0.1},
        {"optimizer": "adamw", "schedule": "poly", "lr": 1e-3},
        {"relation": 1.0, "features": 0.0, "logits": 0.0},
        {"minutes": 0.01},
        {"schedule": "constant", "augment": "none"},
    ],
    ids=str,
)
def test_every_setting_trains(pair, images, settings, caplog):
    teacher, student = pair
    labels = teacher(images).argmax(1)
    before = weights_of(student)
    budget = {} if "minutes" in settings else {"steps": 6}
    told = ghostify.distill(student, teacher, (images, labels), recipe=Recipe(**budget, **settings))
    assert not has_weights(student, before)
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())
    emulated = not cpu_computes_in(settings.get("precision", "fp32"))
    assert emulated == ("this processor has no" in caplog.text)
    assert told.epochs[-1].loss > 0
    assert set(told.epochs[-1].parts) >= {name for name in ("labels", "relation") if settings.get(name)}


def test_the_best_validated_weights_are_kept(pair, images):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, val=images, recipe=Recipe(epochs=3, lr=0.05))
    best = max(row.scores["agreement"] for row in told.epochs)
    found = ghostify.evaluate(student, images, teacher=teacher)
    assert found.agreement == best == next(row.scores["agreement"] for row in told.epochs if row.epoch == told.best)


def test_training_stops_early_without_patience(pair, images):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, val=teacher_like(images), recipe=Recipe(epochs=50, patience=2, lr=1e-6))
    assert len(told.epochs) < 50
    assert "no better validation" in told.ended


def teacher_like(images):
    """Labels that a student at rest always meets equally well."""
    return images, torch.zeros(len(images), dtype=torch.long)


def test_a_loss_that_is_not_finite_ends_at_the_last_good_state(pair, images):
    teacher, student = pair
    recipe = Recipe(steps=300, lr=1e9, batch_size=64, warmup=0.0)
    with pytest.raises(ghostify.DivergedError, match="not finite at step") as caught:
        ghostify.distill(student, teacher, images, recipe=recipe)
    assert 1 <= caught.value.step <= 300
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())


def test_the_last_image_of_an_odd_batch_is_not_mixed(pair, images):
    teacher, student = pair
    batches = [images[:32], images[32:65], images[65:66]]
    told = ghostify.distill(student, teacher, batches, recipe=Recipe(epochs=1, mixup=0.2, lr=0.01))
    assert told.epochs[-1].step == 3


def test_an_epoch_of_a_budget_of_epochs_is_one_pass(pair, images):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, recipe=Recipe(epochs=2, batch_size=64))
    assert [row.step for row in told.epochs] == [0, 4, 8]
