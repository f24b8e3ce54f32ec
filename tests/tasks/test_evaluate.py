import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ghostify


def _scores(n: int = 103, classes: int = 8) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model that gives out the numbers it is shown, images made of those, labels."""
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    model.register_buffer("dummy", torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(n, classes, generator=generator)
    return model, scores.view(n, classes, 1, 1), torch.randint(classes, (n,), generator=generator)


def test_counts_agree_with_counting_by_hand():
    model, images, labels = _scores()
    found = ghostify.evaluate(model, DataLoader(TensorDataset(images, labels), 10))
    scores = images.flatten(1).numpy()
    order = np.argsort(-scores, 1)
    assert found.images == 103
    assert found.top1 == pytest.approx((order[:, 0] == labels.numpy()).mean())
    assert found.top5 == pytest.approx((order[:, :5] == labels.numpy()[:, None]).any(1).mean())
    for k in range(8):
        mine = labels.numpy() == k
        assert found.per_class[k] == pytest.approx((order[mine, 0] == k).mean())
    assert found.agreement is None


@pytest.mark.parametrize("form", ["loader", "pair", "arrays", "batches"])
def test_forms_of_data_give_the_same(form):
    model, images, labels = _scores()
    data = {
        "loader": DataLoader(TensorDataset(images, labels), 7),
        "pair": (images, labels),
        "arrays": (images.numpy(), labels.numpy()),
        "batches": [(images[:50], labels[:50]), (images[50:], labels[50:])],
    }[form]
    assert ghostify.evaluate(model, data) == ghostify.evaluate(model, (images, labels))


def test_agreement_needs_no_labels_and_modes_stay():
    model, images, _ = _scores()
    model.train()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(8, 8))
    found = ghostify.evaluate(model, images, teacher=teacher)
    expected = (teacher(images).argmax(1) == images.flatten(1).argmax(1)).float().mean().item()
    assert (found.top1, found.agreement) == (None, pytest.approx(expected))
    assert model.training


def test_positions_of_a_segmentation_count_and_some_are_ignored():
    model = nn.Identity()
    model.register_buffer("dummy", torch.zeros(()))
    scores = torch.randn(3, 4, 5, 5)
    labels = scores.argmax(1)
    labels[:, 0] = 255
    found = ghostify.evaluate(model, (scores, labels))
    assert (found.images, found.top1) == (3, 1.0)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "empty"),
        (torch.zeros(0, 8, 1, 1), "no image"),
        (torch.zeros(3, 8, 1, 1), "no labels"),
        ((torch.zeros(3, 8, 1, 1), torch.tensor([0, 1, 8])), "label 8, the model 8 classes"),
        ((torch.zeros(3, 8, 1, 1), torch.tensor([0, 1, -1])), "label -1, the model 8 classes"),
        ((torch.zeros(3, 8, 1, 1), torch.tensor([0, 1])), "3 images and 2 labels"),
        (7, "must be a loader"),
        ("nowhere", "neither a folder"),
    ],
)
def test_bad_data_gets_one_sentence(data, said):
    with pytest.raises(ghostify.GhostifyError, match=said) as caught:
        ghostify.evaluate(_scores()[0], data)
    assert "\n" not in str(caught.value)


def test_a_teacher_of_other_classes_is_refused():
    model, images, _ = _scores()
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(8, 5))
    with pytest.raises(ghostify.ArgumentError, match="differ in their outputs"):
        ghostify.evaluate(model, images, teacher=teacher)
