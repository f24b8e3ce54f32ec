"""What compress() can't do is said in one sentence, and nothing is changed."""

import warnings

import pytest
from helpers.digits import digit_net, digits
from torch import nn

import ghostify
from ghostify import ArgumentError, ArgumentTypeError, UnsupportedModelError

IMAGES, LABELS = digits()
FEW, VAL = IMAGES[:64], (IMAGES[800:], LABELS[800:])

BAD = {
    "neither": ({}, ArgumentError, "target=.*or max_drop=.*neither was given"),
    "both": ({"target": {"flops": 0.5}, "max_drop": 0.01}, ArgumentError, "target=.*or max_drop=.*not both"),
    "no drop": ({"max_drop": 0}, ArgumentError, "max_drop must be above 0 and below 1.*not 0$"),
    "all of it": ({"max_drop": 1.0}, ArgumentError, "above 0 and below 1"),
    "points": ({"max_drop": 2}, ArgumentError, "0.01 for one point, not 2$"),
    "not a number": ({"max_drop": "1%"}, ArgumentTypeError, "max_drop must be a number.*'1%'"),
    "another runtime": ({"max_drop": 0.1, "runtime": "tensorrt"}, ArgumentError, "runtime must be one of.*'tensorrt'"),
    "a time on no runtime": ({"target": {"latency": 0.5}}, ArgumentError, "target latency needs runtime="),
    "a runtime for nothing": ({"target": {"flops": 0.5}, "runtime": "eager"}, ArgumentError, "runtime goes with max_drop="),
    "a recipe alone": ({"max_drop": 0.1, "recipe": ghostify.Recipe.preset("short")}, ArgumentError, "recipe goes with train="),
    "no recipe": ({"max_drop": 0.1, "recipe": "short", "train": FEW}, ArgumentTypeError, "recipe must be a ghostify.Recipe"),
    "another method": ({"max_drop": 0.1, "method": "magic"}, ArgumentError, "method must be.*'magic'"),
    "out of reach": ({"target": {"flops": 0.01}}, ArgumentError, r"out of reach.*comes to between .*\(0\.\d+\) and below"),
    "labels beyond": (
        {"max_drop": 0.1, "val": (IMAGES[800:], LABELS[800:] + 5)},
        ArgumentError,
        "val has label 14.*10 classes",
    ),
    "labels of floats": ({"max_drop": 0.1, "val": (IMAGES[800:], LABELS[800:].float())}, ArgumentError, "labels of type"),
    "fewer labels": (
        {"max_drop": 0.1, "val": (IMAGES[800:], LABELS[900:])},
        ArgumentError,
        "997 images and 897 labels",
    ),
    "another order": (
        {"max_drop": 0.1, "val": (IMAGES[800:], (LABELS[800:] + 3) % 10)},
        ArgumentError,
        "no more often than by chance.*order of the model's classes",
    ),
    "few images": ({"max_drop": 0.01, "val": (IMAGES[:100], LABELS[:100])}, ArgumentError, "by 100 images.*give 568 in val"),
    "few held out": ({"max_drop": 0.05}, ArgumentError, "by 32 images.*give 94 and those that calibrate in images"),
    "pixels": ({"max_drop": 0.1, "val": ((255 * IMAGES).byte(), LABELS)}, ArgumentError, "floating-point pixels"),
    "unknown layers": ({"target": {"flops": 0.5}, "ratios": {"layer9": 2}}, ArgumentError, "matches no convolution"),
    "a drop out of reach": (
        {"max_drop": 0.0048, "val": IMAGES[800:]},
        ArgumentError,
        "max_drop=0.0048 is out of reach: the mildest student, planned for 97% of the FLOPs, loses",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    arguments, error, message = BAD[name]
    with pytest.raises(error, match=message) as raised:
        ghostify.compress(digit_net(), FEW, **arguments)
    assert "\n" not in str(raised.value)


def test_a_time_out_of_reach(clock):
    with pytest.raises(ArgumentError, match=r"latency 0.1 .*out of reach on eager: of \d students the fastest takes 0.\d+"):
        ghostify.compress(digit_net(), FEW, target={"latency": 0.1}, runtime="eager")
    with pytest.raises(ArgumentError, match="target latency 900ms is met by the original"):
        ghostify.compress(digit_net(), FEW, target={"latency": "900ms"}, runtime="eager")


def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match="runtime='openvino' can't be used here: not installed: pip install openvino"):
        ghostify.compress(digit_net(), FEW, max_drop=0.1, runtime="openvino")


def test_images_that_judge_and_calibrate_are_warned_of():
    with pytest.warns(UserWarning, match="64 of val's 997 images are among images") as found:
        ghostify.compress(digit_net(), IMAGES[900:964], target={"flops": 0.6}, val=VAL)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ghostify.compress(digit_net(), FEW, target={"flops": 0.6}, val=VAL)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("resnet18", ArgumentTypeError, "model must be a torch.nn.Module, not str"),
        (nn.Identity(), ArgumentError, "Identity has no parameters"),
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten()), UnsupportedModelError, "nothing to convert"),
        (nn.DataParallel(nn.Conv2d(1, 4, 1)), UnsupportedModelError, "pass model.module"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        ghostify.compress(model, FEW, target={"flops": 0.5})


def test_folders_of_other_things(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="is not a folder of a compression"):
        ghostify.compress(digit_net(), FEW, target={"flops": 0.6}, out=tmp_path)
    ghostify.compress(digit_net(), FEW, target={"flops": 0.6}, out=tmp_path / "run")
    for change, what in (
        ({"images": IMAGES[1:65]}, "images"),
        ({"target": {"flops": 0.7}}, "settings"),
        ({"val": VAL}, "val"),
    ):
        arguments = {"images": FEW, "target": {"flops": 0.6}, **change}
        with pytest.raises(ArgumentError, match=f"holds another compression, with other {what}: choose another folder"):
            ghostify.compress(digit_net(), out=tmp_path / "run", **arguments)
