"""convert(target=...): the student keeps to it, and spends it where it matters."""

import json

import pytest
import timm
import torch
from helpers.networks import Residual, randomize
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ghostify
from ghostify.common.copying import copy_to_meta
from ghostify.common.costs import count_params, measure
from ghostify.common.tensors import checksum_of_weights
from ghostify.conversion import site_latency
from ghostify.conversion.runtime_timer import RuntimeTimer
from ghostify.conversion.sensitivity_table import Header, Sensitivity, SiteSensitivity
from ghostify.students.conversion_recipe import recipe_of

INPUT = torch.zeros(1, 3, 64, 64)


def flops(model, example=INPUT):
    return measure(model, (example,)).flops


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return randomize(timm.create_model("resnet18", channels=(64, 64, 128, 256), stem_width=64)).eval()


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
@pytest.mark.parametrize("share", [0.4, 0.6, 0.8])
def test_within_a_hundredth_below_the_target(resnet, share, cheap):
    student = ghostify.convert(resnet, target={"flops": share}, cheap=cheap, example_input=INPUT)
    assert 0.99 * share < flops(student) / flops(resnet) <= share
    student = ghostify.convert(resnet, target={"params": share}, cheap=cheap)
    assert 0.99 * share < count_params(student) / count_params(resnet) <= share


@pytest.mark.parametrize("given", ["0.04G", 4e7, "40M", "4e7", 4 * 10**7])
def test_absolute_targets(resnet, given):
    student = ghostify.convert(resnet, target={"flops": given}, example_input=INPUT)
    assert 3.96e7 < flops(student) <= 4e7


def test_latency_of_the_sites(monkeypatch, tmp_path):
    timed = []

    def seconds_of(run):
        """As long as a machine of 100 GFLOP/s takes, whatever else this one does."""
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() / 1e11

    def turns(self, networks, x, turn, repeats=1):
        timed.extend(networks)
        return {name: [seconds_of(lambda network=network: network(x))] for name, network in networks.items()}

    assert site_latency.seconds_of(lambda: None) > 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(site_latency, "seconds_of", seconds_of)
    monkeypatch.setattr(RuntimeTimer, "_turns", turns)
    model = Residual(64).eval()
    student = ghostify.convert(model, target={"latency": 0.9}, example_input=INPUT)
    assert {"layers", "ghost"} == set(timed)
    timed.clear()
    ghostify.convert(model, target={"latency": 0.9}, example_input=INPUT)
    assert not timed  # but remembered
    budget = recipe_of(student).config["budget"]
    assert budget["least"] <= budget["planned"] <= budget["limit"] < budget["original"] < 1  # seconds
    assert flops(student) < flops(model)


def test_the_input_of_known_models_need_not_be_given():
    student = ghostify.convert("torchvision/resnet18", target={"flops": 0.5})
    assert flops(student, torch.zeros(1, 3, 224, 224)) <= 0.5 * 1.8141e9


def test_settings_pin_sites(resnet):
    ratios = {"layer1.*": 4, "layer4.*": None}
    student = ghostify.convert(resnet, target={"flops": 0.7}, ratios=ratios, example_input=INPUT)
    records = {r.name: r for r in recipe_of(student).sites}
    assert {r.ratio for name, r in records.items() if name.startswith("layer1.")} == {4}
    assert not any(r.converted for name, r in records.items() if name.startswith("layer4."))
    assert flops(student) <= 0.7 * flops(resnet)


class Mine(nn.Module):
    """Nothing says what input it takes; most of its parameters are in a fully connected layer."""

    def __init__(self):
        super().__init__()
        self.net = Residual(32)
        self.wide = nn.Linear(10, 4000)
        self.last = nn.Linear(4000, 10)

    def forward(self, x):
        return self.last(torch.relu(self.wide(self.net(x))))


def test_fully_connected_layers_count():
    model = Mine()
    student = ghostify.convert(model, target={"params": 0.7}, ratios={"wide": 4})
    assert 0.69 < count_params(student) / count_params(model) <= 0.7
    with pytest.raises(ghostify.ArgumentError, match="out of reach"):
        ghostify.convert(model, target={"params": 0.7})


def test_measured_losses_decide(resnet):
    """Where one site is said to bear nothing and all others everything, that one stays dense."""
    names = [r.name for r in recipe_of(ghostify.convert(resnet)).sites if r.converted]
    channels = {name: resnet.get_submodule(name).out_channels for name in names}
    rows = [
        SiteSensitivity(name, ratio, channels[name] // ratio, "depthwise", 0.1, (1.0 if name == names[5] else 1e-3) * ratio)
        for name in names
        for ratio in (2, 4)
    ]
    found = Sensitivity(Header("ResNet", 1, (2.0, 4.0), "depthwise", 3, 0, checksum_of_weights(resnet), 0), tuple(rows))
    student = ghostify.convert(resnet, target={"flops": 0.5}, sensitivity=found, example_input=INPUT)
    kept = {r.name for r in recipe_of(student).sites if r.reason == "kept dense by the target"}
    assert names[5] in kept
    assert flops(student) <= 0.5 * flops(resnet)


def test_saved_losses_give_the_same_plan(tmp_path):
    model = Residual(32).eval()
    found = ghostify.sensitivity(model, torch.randn(8, 3, 64, 64), (2, 4), out=tmp_path / "s.json")
    settings = {"target": {"flops": 0.5}, "cheap": "auto", "example_input": INPUT}
    records = [
        recipe_of(ghostify.convert(model, sensitivity=given, **settings)).sites for given in (found, tmp_path / "s.json")
    ]
    assert records[0] == records[1]


def test_what_settings_pin_need_not_be_measured():
    model = Residual(32).eval()
    found = ghostify.sensitivity(model, torch.randn(8, 3, 16, 16), (2, 4), cheap="auto")
    student = ghostify.convert(model, target={"params": 0.8}, cheap="auto", sensitivity=found, ratios={"stem": 2, "head": 2})
    assert {r.name for r in recipe_of(student).sites if r.converted} >= {"stem", "head"}
    assert count_params(student) <= 0.8 * count_params(model)


def test_the_report_tells_the_range(resnet):
    report = ghostify.report(ghostify.convert(resnet, target={"flops": 0.5}, example_input=INPUT), INPUT)
    assert f"at most {report.before.flops / 2e6:.4g}M (feasible " in str(report)
    assert ghostify.Report.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["budget"] == report.budget


def test_a_student_of_a_budget_can_be_made_again(resnet):
    from ghostify.students.replay import replay

    student = ghostify.convert(resnet, target={"flops": 0.5}, example_input=INPUT)
    again = replay(resnet, recipe_of(student))
    again.load_state_dict(student.state_dict())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again.eval()(x), student.eval()(x))


def bad(**options):
    return lambda model: ghostify.convert(model, **options)


BAD = {
    "no mapping": (bad(target=0.5), r"target must be of the form"),
    "empty": (bad(target={}), r"target must have one of 'flops', 'params', 'latency', not 0"),
    "two": (bad(target={"flops": 0.5, "params": 0.5}), r"target must have one of .* not 2"),
    "unknown": (bad(target={"flop": 0.5}), r"target must be one of 'flops', 'params', 'latency', not 'flop'"),
    "zero": (bad(target={"flops": 0}), r"target\['flops'\] must be of a form such as"),
    "negative": (bad(target={"flops": -1}), r"must be of a form such as 0.5, 2e9, '2G', not -1"),
    "words": (bad(target={"flops": "half"}), r"must be of a form such as 0.5, 2e9, '2G', not 'half'"),
    "unit": (bad(target={"flops": "12ms"}), r"must be of a form such as"),
    "NaN": (bad(target={"flops": float("nan")}), r"must be of a form such as"),
    "bool": (bad(target={"flops": True}), r"must be of a form such as"),
    "seconds or share": (bad(target={"latency": 12}), r"target\['latency'\] must be a share below 1, or a time such as '12ms'"),
    "all of it": (bad(target={"params": 1.0}), r"target\['params'\] must be a share below 1, or a number of params such as"),
    "more than all": (bad(target={"flops": 1.5}), r"target\['flops'\] must be a share below 1, or a number of flops such as"),
    "a word for the input": (bad(target={"flops": 0.5}, example_input="1x3x8x8"), r"example_input must be a tensor, a shape"),
    "too little": (bad(target={"params": 0.1}), r"target params .* \(0.1 of the original's\) is out of reach"),
    "more than there is": (bad(target={"params": "2G"}), r"target params 2G is out of reach"),
    "ratio as well": (bad(ratio=2, target={"params": 0.5}), r"give either ratio=2 or target="),
    "sensitivity alone": (bad(sensitivity="s.json"), r"sensitivity goes with target="),
    "no input": (bad(target={"flops": 0.5}), r"target needs an example_input"),
    "sensitivity of nothing": (bad(target={"params": 0.5}, sensitivity=3), r"sensitivity must come from"),
    "sensitivity no file": (bad(target={"params": 0.5}, sensitivity="none.json"), r"sensitivity 'none.json' can't be read"),
    "pinned away": (bad(target={"params": 0.5}, ratios={"*": None}), r"nothing to convert.*kept dense by ratios"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_targets(name):
    call, message = BAD[name]
    model = Mine()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ghostify.GhostifyError, match=message):
        call(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_sensitivity_of_other_settings_or_of_another_model(resnet):
    model = Mine().eval()
    found = ghostify.sensitivity(model, torch.randn(4, 3, 16, 16), (2,), cheap="auto")
    with pytest.raises(ghostify.ArgumentError, match="sensitivity was measured with cheap='auto', not 'depthwise'"):
        ghostify.convert(model, target={"params": 0.9}, sensitivity=found)
    for other in (resnet, Mine()):
        with pytest.raises(ghostify.ArgumentError, match=r"sensitivity was measured on other weights \(Mine\)"):
            ghostify.convert(other, target={"params": 0.5}, cheap="auto", sensitivity=found)


def test_a_plan_on_the_meta_device_goes_by_a_sensitivity(resnet):
    meta = copy_to_meta(resnet)
    for target, message in (({"flops": 0.5}, "weights to go by"), ({"latency": 0.8}, "weights to run with")):
        with pytest.raises(ghostify.ArgumentError, match=f"{message}.*meta device"):
            ghostify.convert(meta, target=target, example_input=INPUT)
    model = Residual(32).eval()
    found = ghostify.sensitivity(model, torch.randn(4, 3, 64, 64), (2, 4), cheap="depthwise")
    given = {"target": {"flops": 0.5}, "sensitivity": found}
    student = ghostify.convert(copy_to_meta(model), example_input=torch.zeros_like(INPUT, device="meta"), **given)
    assert recipe_of(student).sites == recipe_of(ghostify.convert(model, example_input=INPUT, **given)).sites


def test_a_student_can_be_shrunk_further_and_what_has_no_site_says_so(resnet):
    half = ghostify.convert(resnet, 2, ratios={"layer1.*": None})
    less = ghostify.convert(half, target={"flops": 0.95}, example_input=INPUT)
    assert 0.94 * flops(half) < flops(less) <= 0.95 * flops(half)
    whole = ghostify.convert(resnet, 2)
    for nothing in (whole, nn.Sequential(nn.Linear(3, 4))):
        with pytest.raises(ghostify.UnsupportedModelError, match="nothing to convert"):
            ghostify.convert(nothing, target={"params": 0.5})
