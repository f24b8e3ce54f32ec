"""Labelled data as users have them."""

import numpy as np
import pytest
import torch
from torch import nn

from ghostify.errors import ArgumentError
from ghostify.inputs.sources import make_source

MODEL = nn.Conv2d(3, 4, 3)


def test_a_file_of_images_and_labels(tmp_path):
    images, labels = np.random.default_rng(0).random((10, 3, 8, 8), dtype=np.float32), np.arange(10)
    np.savez(tmp_path / "val.npz", images=images, labels=labels)
    batches = list(make_source(tmp_path / "val.npz", MODEL, 4, training=False).batches)
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.from_numpy(images))
    assert torch.equal(torch.cat([y for _, y in batches]), torch.from_numpy(labels))


def test_files_that_are_none(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "odd.npz", images=np.zeros((3, 3, 8, 8), np.float32), labels=np.arange(2))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "objects.npz", images=np.array([None]), labels=np.arange(1))
    messages = {
        "none.npz": "does not exist",
        "other.npz": "must hold arrays images and labels, not x",
        "odd.npz": "val has 3 images and 2 labels",
        "text.npz": "no .npz file of numbers",
        "objects.npz": "no .npz file of numbers",
    }
    for file, message in messages.items():
        with pytest.raises(ArgumentError, match=message):
            make_source(tmp_path / file, MODEL, 4, training=False, name="val")
