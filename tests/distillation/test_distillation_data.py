"""Every form of data that distill() takes."""

import numpy as np
import pytest
import torch
from helpers.weights import has_weights, weights_of
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ghostify
from ghostify import Recipe


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(6):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / kind / f"{number}.jpg")
    return tmp_path


@pytest.fixture
def torchvision_pair():
    import torchvision

    torch.manual_seed(0)
    teacher = torchvision.models.mobilenet_v3_small(num_classes=2).eval()
    return teacher, ghostify.convert(teacher, 2)


def test_broken_pictures_are_left_out_and_counted(torchvision_pair, pictures):
    teacher, student = torchvision_pair
    (pictures / "cat" / "2.jpg").write_bytes(b"no picture")
    (pictures / "dog" / "3.jpg").write_bytes((pictures / "dog" / "3.jpg").read_bytes()[:200])
    recipe = Recipe(steps=4, batch_size=4, lr=1e-3, features=0)
    told = ghostify.distill(student, teacher, str(pictures), recipe=recipe, workers=0)
    assert told.broken == 2
    assert "2 pictures could not be read" in str(told)
    with pytest.raises(ghostify.ArgumentError, match=r"\.jpg.* can't be read"):
        ghostify.distill(student, teacher, str(pictures), recipe=recipe, workers=0, broken="fail")
    with pytest.raises(ghostify.ArgumentError, match=r"\.jpg.* can't be read"):
        ghostify.evaluate(student, str(pictures), workers=0)


def test_a_folder_of_pictures_is_read_by_processes(torchvision_pair, pictures):
    teacher, student = torchvision_pair
    (pictures / "cat" / "2.jpg").write_bytes(b"no picture")
    told = ghostify.distill(
        student, teacher, pictures, recipe=Recipe(epochs=2, batch_size=4, lr=1e-3, labels=1.0, features=0), workers=2
    )
    assert told.broken == 1
    assert told.epochs[-1].parts["labels"] > 0


def test_a_generator_is_told_from_a_loader(pair, images):
    teacher, student = pair
    with pytest.raises(ghostify.ArgumentError, match="is a generator"):
        ghostify.distill(student, teacher, (images[i : i + 8] for i in range(0, 32, 8)), recipe=Recipe(epochs=2))


class _Batches:
    def __iter__(self):
        return iter([[0, 1, 2, 3], [4, 5, 6, 7]])


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(16, 3, 8, 8))


@pytest.mark.parametrize("form", ["dataset", "stream", "stream in a loader", "own batches", "no labels", "file"])
def test_odd_forms_of_data_train(pair, images, form, tmp_path):
    teacher, student = pair
    np.save(tmp_path / "images.npy", images.numpy())
    train = {
        "dataset": TensorDataset(images),
        "stream": _Stream(),
        "stream in a loader": DataLoader(_Stream(), 4),
        "own batches": DataLoader(images, batch_sampler=_Batches()),
        "no labels": (images, None),
        "file": tmp_path / "images.npy",
    }[form]
    before = weights_of(student)
    told = ghostify.distill(student, teacher, train, recipe=Recipe(steps=3))
    assert told.steps == 3
    assert not has_weights(student, before)
