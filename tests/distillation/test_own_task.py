"""Tasks of one's own."""

import pytest
import torch
from helpers.weights import has_weights, weights_of
from torch import nn

import ghostify
from ghostify import Recipe


def own_task(losses, evaluate=lambda: None):
    class Own(ghostify.Task):
        def losses(self, student, teacher, images, targets, recipe):
            return losses(student, teacher, images)

        def evaluate(self, model, teacher, source, progress=False):
            return evaluate()

    return Own()


def nearer(student, teacher, images):
    return {"logits": nn.functional.mse_loss(student(images), teacher(images).detach())}


def test_a_task_of_ones_own_is_learned(pair, images):
    teacher, student = pair

    def distance():
        with torch.no_grad():
            return float(nearer(student.eval(), teacher, images)["logits"])

    before = distance()
    told = ghostify.distill(student, teacher, images, task=own_task(nearer), recipe=Recipe(steps=40, batch_size=32, lr=0.01))
    assert set(told.epochs[-1].parts) == {"logits", "features"}
    assert distance() < 0.7 * before


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            lambda s, t, x: {"heat": s(x).mean() + 0 * t(x).mean()},
            "dict of some of labels, logits, relation, not heat",
        ),
        (lambda s, t, x: s(x).mean() + 0 * t(x).mean(), "dict of some of labels, logits, relation, not Tensor"),
        (lambda s, t, x: {"logits": x.mean()}, "runs student and teacher once each.* set features to 0"),
        (lambda s, t, x: {"logits": s(x).mean() + s(x).mean()}, "runs student and teacher once each.* set features to 0"),
    ],
)
def test_losses_that_do_not_fit_get_one_sentence(pair, images, losses, said):
    teacher, student = pair
    before = weights_of(student)
    with pytest.raises(ghostify.ArgumentError, match=said):
        ghostify.distill(student, teacher, images, task=own_task(losses), recipe=Recipe(steps=1))
    assert has_weights(student, before)


def test_a_judgement_without_scores_gets_one_sentence(pair, images):
    teacher, student = pair
    task = own_task(nearer, lambda: {"error": 1.0})
    with pytest.raises(ghostify.ArgumentTypeError, match=r"must return something with scores\(\), not dict"):
        ghostify.distill(student, teacher, images, val=images, task=task, recipe=Recipe(steps=1))
