"""Runs that end early go on; checkpoints that do not fit are refused."""

from pathlib import Path

import pytest
from helpers.networks import Residual, randomize
from helpers.weights import has_weights, weights_of
from torch.utils.data import DataLoader, TensorDataset

import ghostify
from ghostify import Recipe
from ghostify.common import tensors


def test_a_finished_run_is_not_run_again(pair, images, tmp_path):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, recipe=Recipe(steps=3), out=tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"checkpoint.safetensors", "student.safetensors", "history.csv", "curve.png", "recipe.yaml"}
    weights = weights_of(student)
    fresh = ghostify.convert(teacher, 2)
    again = ghostify.distill(fresh, teacher, images, recipe=Recipe(steps=3), out=tmp_path, resume=True)
    assert again == told
    assert has_weights(fresh, weights)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "text", "other kind", "recipe", "data", "student", "teacher", "val"])
def test_a_checkpoint_that_does_not_fit_is_refused(pair, images, tmp_path, harm):
    teacher, student = pair
    recipe = Recipe(steps=3)
    ghostify.distill(student, teacher, images, recipe=recipe, out=tmp_path)
    before = weights_of(student)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    match = "can't be read"
    if harm == "truncated":
        path.write_bytes(whole[:-100])
    elif harm == "flipped":
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
        match = "corrupt"
    elif harm == "text":
        path.write_text("no checkpoint")
    elif harm == "other kind":
        path.write_bytes((tmp_path / "student.safetensors").read_bytes())
        match = "no checkpoint of a run"
    elif harm == "recipe":
        recipe, match = Recipe(steps=3, lr=0.3), "lr was 0.02, not 0.3"
    elif harm == "data":
        images, match = images[:128], "other data"
    elif harm == "teacher":
        teacher, match = randomize(Residual()).eval(), "another teacher"
    elif harm == "val":
        match = "had no val"
    else:
        student, match = ghostify.convert(teacher, 4), "another student"
        before = weights_of(student)
    val = images if harm == "val" else None
    with pytest.raises(ghostify.ArgumentError, match=match):
        ghostify.distill(student, teacher, images, val=val, recipe=recipe, out=tmp_path, resume=True)
    assert has_weights(student, before)


def test_a_run_is_not_overwritten(pair, images, tmp_path):
    teacher, student = pair
    ghostify.distill(student, teacher, images, recipe=Recipe(steps=1), out=tmp_path)
    with pytest.raises(ghostify.ArgumentError, match="resume=True goes on"):
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=1), out=tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(pair, images, tmp_path, monkeypatch):
    teacher, student = pair
    recipe = Recipe(epochs=2)
    loader = DataLoader(images, 64)
    real, calls = tensors.save_file, []

    def full(tensors, name, metadata):
        calls.append(name)
        if len(calls) > 2:
            Path(name).write_bytes(b"a part")
            raise OSError(28, "No space left on device")
        real(tensors, name, metadata)

    monkeypatch.setattr(tensors, "save_file", full)
    before = weights_of(student)
    with pytest.raises(ghostify.GhostifyError, match=r"No space left.*before it is whole"):
        ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path)
    assert has_weights(student, before)
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path, resume=True)
    assert not has_weights(student, before)


def test_an_interruption_leaves_the_student_and_a_checkpoint(pair, images, tmp_path):
    teacher, student = pair
    before = weights_of(student)

    class Stops(TensorDataset):
        def __getitem__(self, index):
            seen.append(index)
            if len(seen) == 150:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    seen: list[int] = []
    loader, recipe = DataLoader(Stops(images[:100]), 10), Recipe(epochs=5)
    with pytest.raises(KeyboardInterrupt):
        ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path, checkpoint_seconds=0)
    assert has_weights(student, before)
    told = ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path, resume=True)
    assert told.epochs[-1].epoch == 5
