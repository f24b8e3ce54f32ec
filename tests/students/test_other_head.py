"""Weights of another head say so."""

import pytest
import timm
import torch
from torch import nn

import ghostify
from ghostify import ArgumentError
from ghostify.students.other_head import other_head
from ghostify.students.weights import load_weights


def network(classes: int = 7, width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 16, 3), nn.Flatten()),
        *([nn.Linear(16 * 16, classes)] if classes else []),
    )


@pytest.mark.parametrize(
    ("written", "read", "message"),
    [
        (network(10), network(7), "another head: '5' gives 10 outputs there and 7 in this network.*num_classes=10"),
        (network(0), network(7), "another head: this network ends with '5', which it lacks"),
        (network(7), network(0), "another head: it ends with '5', which this network lacks"),
        (network(7, width=12), network(7), "it is of another architecture"),
    ],
)
def test_a_checkpoint_tells_a_head_from_an_architecture(written, read, message, tmp_path):
    torch.save(written.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ArgumentError, match=message):
        load_weights(read, tmp_path / "weights.pt")


def test_a_student_of_another_head_says_so(tmp_path):
    ghostify.save(ghostify.convert(network(10), 2, cheap="pointwise"), tmp_path / "student.safetensors")
    with pytest.raises(ArgumentError, match="another head: '5' gives 10 outputs there and 7 in this network"):
        ghostify.load(tmp_path / "student.safetensors", network)


def test_several_heads_are_told_together():
    models = [timm.create_model("deit_tiny_distilled_patch16_224", num_classes=n, depth=2, img_size=32) for n in (10, 5)]
    shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in models]
    assert "'head' and 'head_dist' gives 10 outputs there and 5 in this network" in (other_head(*shapes) or "")
    assert other_head(shapes[0], shapes[0]) is None


def test_the_folder_of_a_run_is_loaded(tmp_path):
    student, x = ghostify.convert(network().eval(), 2), torch.randn(2, 3, 8, 8)
    ghostify.save(student, tmp_path / "student.safetensors")
    (tmp_path / "recipe.yaml").touch()
    with torch.no_grad():
        assert torch.equal(ghostify.load(tmp_path, network)(x), student(x))
