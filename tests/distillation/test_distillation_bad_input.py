"""Bad input to distill() gets one sentence and changes nothing."""

import pytest
import torch
from helpers.weights import has_weights, weights_of
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import ghostify
from ghostify import Recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": []}, "empty"),
        ({"train": DataLoader(TensorDataset(torch.zeros(3, 3, 8, 8)), 8, drop_last=True)}, "empty"),
        ({"train": "nowhere"}, "neither a folder"),
        ({"train": 7}, "must be a loader"),
        ({"train": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"train": torch.full((4, 3, 8, 8), float("nan"))}, "NaN"),
        ({"train": torch.zeros(4, 5, 8, 8)}, "do not fit Residual"),
        ({"recipe": Recipe(steps=2, labels=1.0)}, "train has none"),
        ({"train": (torch.zeros(4, 3, 8, 8), torch.zeros(4, 10))}, r"labels of shape \(4, 10\)"),
        ({"train": (torch.zeros(4, 3, 8, 8), list("abcd"))}, "no numbers"),
        ({"val": torch.zeros(4, 5, 8, 8)}, "do not fit Residual"),
        ({"val": (torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 10]))}, "val has label 10"),
        ({"val": iter([torch.zeros(4, 3, 8, 8)])}, "val is a generator"),
        ({"recipe": "short"}, "must be a ghostify.Recipe"),
        ({"resume": True}, "needs out="),
        ({"broken": "ignore"}, "broken must be one of"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds"),
    ],
)
def test_bad_input_gets_one_sentence_and_changes_nothing(pair, images, change, said):
    teacher, student = pair
    before = weights_of(student)
    arguments = {"train": images, "recipe": Recipe(steps=2)} | change
    with pytest.raises(ghostify.GhostifyError, match=said) as caught:
        ghostify.distill(student, teacher, **arguments)
    assert "\n" not in str(caught.value)
    assert has_weights(student, before)


def test_labels_beyond_the_classes_are_named(pair, images):
    teacher, student = pair
    labels = torch.full((len(images),), 10)
    with pytest.raises(ghostify.ArgumentError, match="outside of 0 to 9"):
        ghostify.distill(student, teacher, (images, labels), recipe=Recipe(steps=2, labels=1.0))


def test_a_teacher_of_other_classes_is_refused(pair, images):
    teacher, student = pair
    teacher.head = nn.Linear(16, 7)
    with pytest.raises(ghostify.ArgumentError, match=r"differ in their outputs: \(10,\) against \(7,\)"):
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=2))


def test_a_student_that_can_not_be_saved_is_refused_before_it_is_trained(pair, images, tmp_path):
    teacher, student = pair
    prune.l1_unstructured(student.head, "weight", 0.5)
    with pytest.raises(ghostify.ArgumentError, match="'head' is pruned"):
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=2), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
