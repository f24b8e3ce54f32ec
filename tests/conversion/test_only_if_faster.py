"""convert(only_if_faster=): what stays dense, why, and what is remembered."""

import json
import logging

import pytest
import torch
from helpers.networks import Residual
from torch import nn

import ghostify
from ghostify.conversion import only_if_faster as faster
from ghostify.conversion.runtime_timer import RuntimeTimer, Seconds
from ghostify.students.conversion_recipe import recipe_of

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("compile", "onnxruntime", "openvino")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ghostify" / "latency.json"


def net():
    torch.manual_seed(0)
    layers = []
    for i, kernel in enumerate((3, 3, 1, 5, 1)):
        layers += [nn.Conv2d(3 if i == 0 else 16, 16, kernel, padding=kernel // 2), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


def clock(monkeypatch, site, network=lambda sites: Seconds(2, 1)):
    """Times that are said by the kernel of a site, and by how many sites a student has; returns what was asked for."""
    asked = []

    def times(self, original, ghost, x, turn):
        kernels = [m.kernel_size[0] for m in original.modules() if isinstance(m, nn.Conv2d)]
        ghosts = len(kernels) if len(kernels) == 1 else sum(name.endswith(".ghosts") for name, _ in ghost.named_modules())
        asked.append((len(kernels), ghosts))
        return site(kernels[0]) if len(kernels) == 1 else network(ghosts)

    monkeypatch.setattr(RuntimeTimer, "_times", times)
    return asked


def reasons(student):
    return {site.name: site.reason for site in recipe_of(student).sites if site.reason}


def test_sites_that_gain_nothing_stay_dense_and_say_why(monkeypatch):
    clock(monkeypatch, lambda kernel: Seconds(1e-3, 1.2e-3 if kernel == 1 else 0.99e-3 if kernel == 5 else 0.5e-3))
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    student = ghostify.convert(model, only_if_faster="eager", example_input=(1, 3, 16, 16))
    assert {name for name, _ in student.named_modules() if name.endswith("primary_conv")} == {"3.primary_conv"}
    told = reasons(student)
    assert told["6"] == "not faster on eager: 1.2 ms, 1 ms as it is"
    assert "not faster" in told["9"]  # one percent is noise
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_network_that_is_not_faster_keeps_the_sites_that_gain_most(monkeypatch):
    asked = clock(monkeypatch, lambda kernel: Seconds(kernel, 0.5), lambda ghosts: Seconds(1, 0.9 if ghosts <= 1 else 1.1))
    student = ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))
    assert [ghosts for sites, ghosts in asked if sites > 1] == [4, 2, 1, 1]  # what is faster is timed once more
    assert {name for name, _ in student.named_modules() if name.endswith("primary_conv")} == {"9.primary_conv"}  # 5x5
    assert "with it the network was not faster on eager" in reasons(student)["6"]


def test_a_network_that_was_faster_by_chance_is_not_taken(monkeypatch):
    lucky = iter([Seconds(1, 0.9), Seconds(1, 1)])
    clock(monkeypatch, lambda kernel: Seconds(kernel, 0.5), lambda ghosts: next(lucky, Seconds(1, 0.9)))
    student = ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))
    assert sum(site.converted for site in recipe_of(student).sites) == 2  # of four that are faster by themselves
    assert "with it the network was not faster on eager: 1e+03 ms, 1e+03 ms as it is" in reasons(student).values()


@pytest.mark.parametrize("metric", ["flops", "params"])
def test_a_target_is_shared_out_over_what_is_faster(monkeypatch, metric):
    clock(monkeypatch, lambda kernel: Seconds(1, 0.5 if kernel == 5 else 2))
    settings = {"target": {metric: 0.6}, "example_input": (1, 3, 16, 16), "skip": (), "min_channels": 1}
    plain, student = (ghostify.convert(net(), only_if_faster=runtime, **settings) for runtime in (None, "eager"))
    report = ghostify.report(student, (1, 3, 16, 16))
    assert getattr(report.after, metric) <= 0.6 * getattr(report.before, metric)
    assert {"3", "9"} <= {site.name for site in recipe_of(plain).sites if site.converted}
    assert [site.name for site in recipe_of(student).sites if site.converted] == ["9"]  # 5x5, most of it
    assert reasons(student)["3"].startswith("not faster on eager")
    assert recipe_of(student).config["budget"]["metric"] == metric
    assert "3" not in recipe_of(student).config["ratios"]


def test_a_target_that_what_is_faster_does_not_reach(monkeypatch):
    clock(monkeypatch, lambda kernel: Seconds(1, 0.5 if kernel == 3 else 2))
    with pytest.raises(ghostify.ArgumentError, match=r"out of reach.*sites? stays? dense: not faster on eager"):
        ghostify.convert(net(), target={"flops": 0.4}, only_if_faster="eager", example_input=(1, 3, 16, 16))


def test_nothing_is_faster(monkeypatch):
    clock(monkeypatch, lambda kernel: Seconds(1, 0.5), lambda ghosts: Seconds(1, 1))
    with pytest.raises(ghostify.UnsupportedModelError, match=r"nothing to convert.*not faster on eager"):
        ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))


def test_a_layer_that_the_runtime_cannot_take_stays_dense(monkeypatch):
    def site(kernel):
        if kernel == 5:
            raise RuntimeError("no such kernel\nlong story")
        return Seconds(1, 0.5)

    clock(monkeypatch, site)
    student = ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))
    assert reasons(student)["9"] == "can't be timed on eager: no such kernel"


def test_what_was_timed_is_remembered(monkeypatch, cache):
    asked = clock(monkeypatch, lambda kernel: Seconds(1, 0.5))
    for _ in range(2):
        ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))
        assert len(asked) == 5  # three kinds of sites, two of one kind, and the network twice
    ghostify.convert(net(), only_if_faster="eager", example_input=(2, 3, 16, 16))
    assert len(asked) == 10
    ghostify.convert(net(), 3, only_if_faster="eager", example_input=(2, 3, 16, 16))
    assert len(asked) == 15
    torch.set_num_threads(1 if torch.get_num_threads() > 1 else 2)
    ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))
    assert len(asked) == 20
    assert len(json.loads(cache.read_text())) == 20


@pytest.mark.parametrize("content", ["{", "[1]", None])
def test_a_cache_that_cannot_be_used_costs_only_time(monkeypatch, cache, content, caplog):
    asked = clock(monkeypatch, lambda kernel: Seconds(1, 0.5))
    cache.parent.parent.mkdir()
    if content is None:
        cache.parent.write_text("a file where the folder should be")
    else:
        cache.parent.mkdir()
        cache.write_text(content)
    with caplog.at_level(logging.WARNING, logger="ghostify"):
        student = ghostify.convert(net(), only_if_faster="eager", example_input=(1, 3, 16, 16))
    assert len(asked) == (5 if content else 6)  # nothing can be remembered there
    assert any(name.endswith("primary_conv") for name, _ in student.named_modules())
    assert caplog.records or content == "[1]"


@pytest.mark.parametrize("runtime", ["eager", *SLOW])
def test_really_timed(runtime, monkeypatch, cache):
    if faster.runtime_named(runtime).missing():
        pytest.skip(faster.runtime_named(runtime).missing())
    for name in ("TURN", "LAYER_TURN"):
        monkeypatch.setattr(f"ghostify.conversion.runtime_timer.{name}", 0.005)
    monkeypatch.setattr(faster, "MOST", 1e9)  # whatever the clock says: what is tested is that there are times
    student = ghostify.convert(Residual(32), only_if_faster=runtime, example_input=(1, 3, 32, 32), linear_ratio=2)
    plain = ghostify.convert(Residual(32), linear_ratio=2)
    assert [site.converted for site in recipe_of(student).sites] == [site.converted for site in recipe_of(plain).sites]
    seconds = json.loads(cache.read_text()).values()
    assert len(seconds) >= 2
    assert all(0 < one < 10 for pair in seconds for one in pair)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only_if_faster": "tensorrt", "example_input": (1, 3, 8, 8)}, "runtime must be one of.*'tensorrt'"),
        ({"only_if_faster": "eager"}, "only_if_faster needs an example_input"),
        (
            {"only_if_faster": "eager", "target": {"flops": 0.5}, "cheap": "auto", "images": torch.zeros(2, 3, 8, 8)},
            "goes without images",
        ),
        ({"only_if_faster": "eager", "example_input": (torch.zeros(1, 3, 8, 8), torch.zeros(1))}, "networks of one input"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ghostify.ArgumentError, match=message):
        ghostify.convert(net(), **settings)
    if settings["only_if_faster"] == "eager" and len(settings) == 1:
        with pytest.raises(ghostify.ArgumentError, match="on the meta device"):
            ghostify.convert(net().to("meta"), only_if_faster="eager", example_input=(1, 3, 8, 8))


def test_a_runtime_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ghostify.ArgumentError, match="only_if_faster='openvino' can't be used here: not installed"):
        ghostify.convert(net(), only_if_faster="openvino", example_input=(1, 3, 8, 8))
