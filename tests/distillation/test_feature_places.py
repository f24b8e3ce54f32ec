"""Where maps of teacher and student are compared."""

import torch
from torch import nn

import ghostify
from ghostify import Recipe
from ghostify.distillation.feature_places import find_places


def test_maps_are_compared_after_blocks_or_sites(pair):
    import torchvision

    teacher, student = pair
    x = torch.randn(2, 3, 8, 8)
    assert find_places(student, teacher, lambda model: model(x)) == ["bn1", "bn2"]
    teacher = torchvision.models.resnet18().eval()
    student = ghostify.convert(teacher, 2)
    x = torch.randn(2, 3, 64, 64)
    expected = [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert find_places(student, teacher, lambda model: model(x)) == expected


def test_another_network_of_the_same_outputs_is_trained_without_features(pair, images):
    teacher, _ = pair
    student = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    told = ghostify.distill(student, teacher, images, recipe=Recipe(steps=2))
    assert "no features were matched" in told.summary()
    assert set(told.epochs[-1].parts) == {"logits"}
