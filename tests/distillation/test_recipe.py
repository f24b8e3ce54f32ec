import dataclasses

import pytest

import ghostify
from ghostify import Recipe
from ghostify.distillation.training_recipe import PRESETS


def test_yaml_gives_back_every_setting(tmp_path):
    recipe = Recipe(minutes=2.5, lr=0.3, ema=0.99, precision="bf16", patience=3, channels_last=True)
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_recipes_and_can_be_changed(name):
    assert dataclasses.replace(Recipe.preset(name), lr=1.0) == Recipe.preset(name, lr=1.0)
    assert Recipe.preset(name, minutes=3).minutes == 3
    assert Recipe.preset(name, minutes=3).steps is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "one budget"),
        ({"steps": 3, "epochs": 1}, "steps"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 1.5}, "whole number"),
        ({"steps": 1, "lr": 0}, "above 0"),
        ({"steps": 1, "lr": float("nan")}, "lr"),
        ({"steps": 1, "ema": 1.0}, "below 1"),
        ({"steps": 1, "optimizer": "sdg"}, "optimizer"),
        ({"steps": 1, "schedule": "cosin"}, "schedule"),
        ({"steps": 1, "precision": "int8"}, "precision"),
        ({"steps": 1, "logits": 0, "features": 0}, "needs a loss"),
        ({"steps": 1, "channels_last": "yes"}, "channels_last"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(ghostify.GhostifyError, match=said):
        Recipe(**settings)


@pytest.mark.parametrize(("text", "said"), [("a: [", "no YAML"), ("- 1", "mapping"), ("stepz: 3", "no setting 'stepz'")])
def test_bad_files_are_named(tmp_path, text, said):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ghostify.ArgumentError, match=said):
        Recipe.load(tmp_path / "r.yaml")
    with pytest.raises(ghostify.ArgumentError, match="can't be read"):
        Recipe.load(tmp_path / "none.yaml")


def test_numbers_that_yaml_has_for_texts(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("steps: 10\nlr: 1e-3\n")
    assert Recipe.load(path).lr == 1e-3
    path.write_text("steps: 10\nlr: fast\n")
    with pytest.raises(ghostify.ArgumentTypeError, match=r"recipe.yaml.*lr must be a number"):
        Recipe.load(path)


def test_pairs_for_mixing():
    with pytest.raises(ghostify.ArgumentError, match="batch_size must be even"):
        Recipe(steps=10, mixup=0.2, batch_size=33)
