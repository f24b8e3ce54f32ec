"""Bad input to convert(cheap="absorbed"), and to calibrate() of its students, gets one sentence and changes nothing."""

import copy
import warnings

import numpy as np
import pytest
import torch
from helpers.calibration import X, images, state, trained, unchanged
from helpers.networks import Gated, Residual

import ghostify

MODEL = trained(Residual(32))
STUDENT = ghostify.convert(MODEL, 2, cheap="absorbed")

IMAGES = {
    "none": ([], "holds no image"),
    "empty": (torch.zeros(0, 3, 12, 12), "holds no image"),
    "single": (X[0], "not single images"),
    "list of single ones": (list(X), "not single images"),
    "flat": (X[0, 0], "must have shape"),
    "four channels": (images(8, channels=4), "do not fit"),
    "uint8": ((X * 255).clamp(0, 255).to(torch.uint8), "uint8"),
    "NaN": (X.masked_fill(X > 1, torch.nan), "NaN or infinite"),
    "infinite": (X.masked_fill(X > 1, torch.inf), "NaN or infinite"),
    "range": (X * 255, "another range"),
    "constant": (torch.zeros(8, 3, 12, 12), "another range"),
    "number": (3, "images must be"),
    "strings": (["a"], "must be a tensor"),
    "labels": ([{"label": 1}], "pixel_values"),
    "no folder": ("nowhere", "neither a folder"),
    "objects": (np.array([["a"]], dtype=object), "array of object"),
    "sparse": (X.to_sparse(), "sparse"),
    "meta": (X.to("meta"), "meta"),
}

USES = {
    "convert": lambda model, student, x: ghostify.convert(model, target={"flops": 0.7}, cheap="absorbed", images=x),
    "calibrate": lambda model, student, x: ghostify.calibrate(student, model, x),
    "sensitivity": lambda model, student, x: ghostify.sensitivity(model, x, method="one_pass"),
}


def refused(message, call):
    """``call`` of a model and its student is refused in one sentence, and changes neither, nor the random state."""
    model, student, random_state = copy.deepcopy(MODEL), copy.deepcopy(STUDENT), torch.random.get_rng_state()
    before = state(model), state(student)
    with pytest.raises(ghostify.GhostifyError, match=message) as caught:
        call(model, student)
    assert "\n" not in str(caught.value)
    assert unchanged(model, before[0])
    assert unchanged(student, before[1])
    assert torch.equal(random_state, torch.random.get_rng_state())


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("use", USES)
def test_images_of_every_wrong_kind(use, case):
    x, message = IMAGES[case]
    refused(message, lambda model, student: USES[use](model, student, x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1}, "above 1"),
        ({"ratio": float("nan")}, "above 1"),
        ({"ratio": "2"}, "number above 1"),
        ({"ratios": {"conv1": 0}}, r"ratios\['conv1'\] must be a finite number above 1"),
        ({"ratios": {"nothing": 2}}, "matches no convolution"),
        ({"ratios": {"conv1": None}}, "nothing to convert"),
        ({"round_to": 32}, "nothing to convert"),
        ({"min_channels": 33}, "nothing to convert"),
        ({"target": {"flops": 0.01}}, r"out of reach: .* between .* \(0\.\d+\) and below"),
        ({"target": {"params": 0.01}}, r"out of reach: .* between .* \(0\.\d+\) and below"),
        ({"target": {"latency": 0.5}}, "latency does not go with"),
        ({"target": {"max_drop": 0.1}}, "target must be one of"),
        ({"target": {"flops": True}}, "must be of a form"),
        ({"target": {"flops": 0.5, "params": 0.5}}, "must have one of"),
        ({"target": None}, "images goes with target="),
        ({"cheap": "pointwise"}, "images goes with cheap='absorbed'"),
        ({"sensitivity": "s.json"}, "either images or sensitivity"),
    ],
    ids=str,
)
@pytest.mark.parametrize("inplace", [False, True])
def test_settings_that_can_not_be(settings, message, inplace):
    arguments = {"cheap": "absorbed", "inplace": inplace}
    if not {"ratio", "ratios", "round_to", "min_channels"} & settings.keys():
        arguments |= {"target": {"flops": 0.7}, "images": X}
    refused(message, lambda model, student: ghostify.convert(model, **{**arguments, **settings}))


@pytest.mark.parametrize("layer", ["conv1", "bn1", "conv2"])
@pytest.mark.parametrize("settings", [{"ratio": 2}, {"target": {"params": 0.7}}], ids=["ratio", "target"])
def test_weights_that_are_not_finite(settings, layer):
    model = copy.deepcopy(MODEL)
    model.get_submodule(layer).weight.data[0] = torch.nan
    with pytest.raises(ghostify.ArgumentError, match=f"NaN or infinite weights in '{layer}.weight'"):
        ghostify.convert(model, cheap="absorbed", **settings)


def test_a_ratio_as_large_as_can_be_leaves_one_map():
    student = ghostify.convert(MODEL, 1e9, cheap="absorbed", round_to=1)
    assert student.conv1.out_channels == student.conv2.in_channels == 1
    ghostify.calibrate(student, MODEL, X, method="least_squares")
    assert student(X).isfinite().all()


def test_settings_that_change_nothing_are_told():
    network = Gated().eval()
    with pytest.warns(UserWarning, match=r"dw_size=5 changes nothing: absorbed ghosts have no cheap operation"):
        ghostify.convert(network, 2, cheap="absorbed", dw_size=5)
    with pytest.warns(UserWarning, match=r"ratios\['last'\] changes nothing: its maps are an output"):
        ghostify.convert(network, 2, cheap="absorbed", ratios={"last": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ghostify.convert(network, 2, cheap="absorbed", ratios={"last": None, "expand": 3, "*": 2})
