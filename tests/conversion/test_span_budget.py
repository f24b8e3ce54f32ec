"""convert(target=..., cheap="absorbed"): spans keep as many channels as the target allows, where they lose least."""

import copy
import warnings

import pytest
import torch
from helpers.families import FAMILIES
from helpers.networks import Residual, randomize
from torch import nn

import ghostify
from ghostify import ArgumentError, UnsupportedModelError
from ghostify.common.copying import copy_to_meta
from ghostify.conversion.span_losses import completed
from ghostify.students.conversion_recipe import recipe_of

INPUT = (1, 3, 64, 64)


def converted(model, share, metric="flops", **settings):
    return ghostify.convert(model, target={metric: share}, cheap="absorbed", **{"example_input": INPUT, **settings})


def kept(student):
    return {span.name: len(span.kept) or span.channels for span in recipe_of(student).spans}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_planned_is_what_the_student_costs(family):
    torch.manual_seed(0)
    model = randomize(FAMILIES[family]()).eval()
    example = (1, 3, 160, 160) if family == "vit" else INPUT
    for metric in ("flops", "params"):
        student = converted(model, 0.75, metric, example_input=example, min_channels=1)
        report, budget = ghostify.report(student, example), recipe_of(student).config["budget"]
        before, after = getattr(report.before, metric), getattr(report.after, metric)
        assert (budget["original"], budget["planned"]) == (before, after)
        assert 0.7 * before < after <= 0.75 * before == budget["limit"]
        assert budget["least"] < after


def test_images_tell_which_spans_bear_much(resnet, images):
    """Half the maps of one span are copies of the other half: they go first."""
    model = copy.deepcopy(resnet)
    with torch.no_grad():
        for layer in (model.layer3[0].conv1, model.layer3[0].bn1):
            for tensor in layer.state_dict().values():
                if tensor.dim():
                    tensor[32:] = tensor[:32]
    student, other = (recipe_of(converted(network, 0.85, images=images)) for network in (model, resnet))
    widths, before = ({span.name: len(span.kept) / span.channels for span in recipe.narrowed} for recipe in (student, other))
    assert min(widths, key=widths.get) == "layer3.0.conv1"
    assert widths["layer3.0.conv1"] <= 0.7 < before.get("layer3.0.conv1", 1)


def test_images_leave_model_and_random_state_alone_and_give_the_same_plan_again(resnet, images):
    state, mode = {name: value.clone() for name, value in resnet.state_dict().items()}, torch.random.get_rng_state()
    first, again = (converted(resnet, 0.6, images=images) for _ in range(2))
    assert recipe_of(first) == recipe_of(again)
    assert torch.equal(mode, torch.random.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in resnet.state_dict().items())


def test_widths_are_multiples_that_run_fast_unless_the_user_says_otherwise(resnet):
    def steps(**settings):
        return {m % 8 for m in kept(converted(resnet, 0.6, **settings)).values()}

    assert steps() == {0, 4}  # 32 channels may go in steps of 4
    assert steps(round_to=8) == {0}
    assert steps(round_to=1) & {1, 2, 3, 5, 6, 7}


def test_settings_that_name_spans_rule(resnet):
    ratios = {"layer1.0.conv1": 4, "layer2.*": None, "layer2.0.conv1": 2}
    student = converted(resnet, 0.6, ratios=ratios)
    widths = kept(student)
    assert (widths["layer1.0.conv1"], widths["layer2.0.conv1"], widths["layer2.1.conv1"]) == (8, 16, 32)
    assert min(widths["layer3.0.conv1"], widths["layer3.1.conv1"]) < 64
    reasons = {span.name: span.reason for span in ghostify.report(student, INPUT).spans}
    assert reasons["layer2.1.conv1"] == "kept dense by ratios"


def test_smaller_ranks_of_fully_connected_layers_count():
    torch.manual_seed(0)

    class Mixed(Residual):
        def __init__(self):
            super().__init__(64)
            self.last = nn.Linear(128, 10)
            self.head = nn.Linear(64, 128)

        def forward(self, x):
            return self.last(super().forward(x).softmax(1))

    student = converted(Mixed().eval(), 0.7, "params", linear_ratio=4)
    report, budget = ghostify.report(student, INPUT), recipe_of(student).config["budget"]
    assert isinstance(student.head, ghostify.ReducedLinear)
    assert (budget["original"], budget["planned"]) == (report.before.params, report.after.params)
    assert report.after.params <= 0.7 * report.before.params


def test_images_are_the_example_of_a_network_whose_input_is_not_known(images):
    torch.manual_seed(0)
    model = Residual(32).eval()
    ghostify.reestimate_norms(model, images)
    student = converted(model, 0.7, images=images, example_input=None)
    report = ghostify.report(student, INPUT)
    assert recipe_of(student).config["budget"]["planned"] == report.after.flops <= 0.7 * report.before.flops


def test_the_warning_about_images_names_the_line_that_converts(resnet, images):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ghostify.convert(resnet, target={"flops": 0.7}, cheap="absorbed", images=images * 5, example_input=INPUT)
    assert [warning.filename for warning in caught if "preprocessing" in str(warning.message)] == [__file__]


def test_the_meta_device_has_costs_but_no_losses(resnet):
    with pytest.raises(ArgumentError, match="needs a model that has weights to go by"):
        converted(copy_to_meta(resnet), 0.6)


REFUSED = {
    "far below": (
        {"flops": 0.05},
        {},
        r"out of reach: with as few channels as spans may keep .* between \d.*\(0\.\d+\) and below",
    ),
    "pinned": ({"flops": 0.6}, {"ratios": {"*": None}}, "nothing to convert"),
    "above": ({"flops": "1T"}, {}, "out of reach"),
    "latency": ({"latency": 0.5}, {}, "latency does not go with cheap='absorbed'"),
    "latency of both kinds": (
        {"latency": 0.5},
        {"images": torch.zeros(1, 3, 8, 8), "cheap": "auto"},
        "latency does not go with cheap='auto' and images",
    ),
    "no such layer": ({"flops": 0.5}, {"ratios": {"nothing": 2}}, "matches no convolution"),
    "both": ({"flops": 0.5}, {"images": torch.zeros(1, 3, 8, 8), "sensitivity": "s.json"}, "either images or sensitivity"),
    "no target": (None, {"images": torch.zeros(1, 3, 8, 8)}, "images goes with target="),
    "Ghost modules": (
        {"flops": 0.5},
        {"images": torch.zeros(1, 3, 8, 8), "cheap": "depthwise"},
        "images goes with cheap='absorbed' and 'auto'",
    ),
    "no image": ({"flops": 0.5}, {"images": torch.zeros(0, 3, 8, 8)}, "holds no image"),
    "other range": ({"flops": 0.5}, {"images": 1000 * torch.randn(4, 3, 64, 64)}, "another range"),
    "whole numbers": ({"flops": 0.5}, {"images": torch.zeros(4, 3, 64, 64, dtype=torch.uint8)}, "floating-point"),
    "another shape": ({"flops": 0.5}, {"images": torch.randn(4, 1, 64, 64)}, "images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_sentence_with_nothing_changed(resnet, case):
    target, settings, message = REFUSED[case]
    before = {name: value.clone() for name, value in resnet.state_dict().items()}
    kind = UnsupportedModelError if case == "pinned" else ArgumentError
    example = {} if target is None else {"example_input": INPUT}
    with pytest.raises(kind, match=message) as error:
        ghostify.convert(resnet, target=target, **{"cheap": "absorbed", **example, **settings})
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in resnet.state_dict().items())


def test_losses_never_fall_as_channels_go_and_gaps_are_filled():
    inf = float("inf")
    losses = completed(torch.tensor([inf, inf, 9.0, inf, 2.0, 3.0, 1.0], dtype=torch.float64).numpy())
    assert losses.tolist() == [inf, inf, 8.0, 4.5, 2.0, 2.0, 0.0]
