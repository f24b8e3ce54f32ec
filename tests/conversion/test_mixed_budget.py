"""convert(target=..., images=..., cheap="auto"): spans are narrowed, and outputs of blocks may become Ghost modules."""

import pytest
import torch
from helpers.families import FAMILIES
from helpers.networks import Residual, randomize
from torch import fx, nn

import ghostify
from ghostify.absorption.output_moments import output_moments
from ghostify.graph.find_sites import trace_layers
from ghostify.students.conversion_recipe import recipe_of

INPUT = (1, 3, 64, 64)


def converted(model, share, images, metric="flops", **settings):
    return ghostify.convert(model, target={metric: share}, cheap="auto", images=images, example_input=INPUT, **settings)


def ghosts(student):
    return {record.name: record for record in recipe_of(student).sites if record.converted}


def narrowed(student):
    return {record.name: len(record.kept) for record in recipe_of(student).narrowed}


@pytest.mark.parametrize("metric", ["flops", "params"])
def test_both_kinds_share_a_budget_and_cost_what_is_planned(resnet, images, metric):
    student = converted(resnet, 0.5, images, metric)
    assert ghosts(student)
    assert narrowed(student)
    report, budget = ghostify.report(student, INPUT), recipe_of(student).config["budget"]
    before, after = getattr(report.before, metric), getattr(report.after, metric)
    assert (budget["original"], budget["planned"]) == (before, after)
    assert 0.48 * before < after <= 0.5 * before
    assert report.after.params == sum(p.numel() for p in student.parameters())
    assert report.before.params == sum(p.numel() for p in resnet.parameters())


@pytest.mark.parametrize("family", ["mobilenet", "densenet", "vgg", "convnext"])
def test_other_families_cost_what_is_planned(family):
    torch.manual_seed(0)
    model = randomize(FAMILIES[family]()).eval()
    images = torch.randn(2, 3, *((160, 160) if family == "vit" else (64, 64)))
    example = tuple(images[:1].shape)
    target = {"flops": 0.75}
    student = ghostify.convert(model, target=target, cheap="auto", images=images, example_input=example, min_channels=1)
    report, budget = ghostify.report(student, example), recipe_of(student).config["budget"]
    assert (budget["original"], budget["planned"]) == (report.before.flops, report.after.flops)
    assert report.after.flops <= 0.75 * report.before.flops
    assert student.eval()(images).shape == model(images).shape


def test_outputs_that_are_linear_in_half_of_them_lose_nothing_without_the_others(images):
    torch.manual_seed(2)
    model = Residual().double()
    randomize(model).eval()
    conv = next(site for name, site in model.named_modules() if isinstance(site, nn.Conv2d) and name.endswith("conv2"))
    name = next(name for name, module in model.named_modules() if module is conv)
    n = conv.out_channels
    with torch.no_grad():
        mix = torch.randn(n - n // 2, n // 2, dtype=torch.float64)
        conv.weight[n // 2 :] = torch.einsum("ab,bcij->acij", mix, conv.weight[: n // 2])
    x = images.double()
    moments = output_moments(model, [name], [((x,), {})], trace_layers(model), 1 << 30)[name]
    losses = moments.pointwise_loss()
    assert losses[n // 2] < 1e-10 < losses[n // 2 - 1]
    assert losses[n] == 0
    assert torch.allclose(losses[0], moments.covariance.trace())


def test_pins_and_skips_hold_for_ghost_modules(resnet, images):
    pins = {"layer1.0.conv2": 4, "layer2.0.conv2": None, "layer1.0.conv1": 2}
    student = converted(resnet, 0.6, images, ratios=pins)
    assert ghosts(student)["layer1.0.conv2"].intrinsic == 8
    assert "layer2.0.conv2" not in ghosts(student)
    assert narrowed(student)["layer1.0.conv1"] == 16


def test_a_ratio_alone_and_a_target_alone_give_ghost_modules_as_ever(resnet):
    for settings in ({"ratio": 2}, {"target": {"flops": 0.6}, "example_input": INPUT}):
        student = ghostify.convert(resnet, cheap="auto", **settings)
        assert not recipe_of(student).spans
        assert "layer1.0.conv1" in ghosts(student)


@pytest.mark.parametrize("traced", [False, True], ids=["module", "graph module"])
@pytest.mark.parametrize("method", ["least_squares", "block"])
def test_a_student_with_both_is_calibrated_saved_folded_and_traced(resnet, images, tmp_path, traced, method):
    model = fx.symbolic_trace(resnet) if traced else resnet
    student = converted(model, 0.5, images).eval()
    cheap = {name: record.cheap for name, record in ghosts(student).items()}
    with torch.no_grad():
        want = model(images)
        before = float((student(images) - want).square().mean() / want.var())
        report = ghostify.calibrate(student, model, images, method=method, steps=20, copies=0)
        after = float((student(images) - want).square().mean() / want.var())
    assert after < 0.3 * before
    assert set(cheap) <= {site.name for site in report.sites}
    assert {name: student.get_submodule(name).cheap for name in cheap} == cheap
    counted = ghostify.report(student, INPUT)
    assert counted.after.flops == recipe_of(student).config["budget"]["planned"]
    expected = student(images)
    assert torch.allclose(ghostify.fold(student)(images), expected, atol=1e-4, rtol=1e-4)
    if not traced:
        ghostify.save(student, tmp_path / "student.safetensors")
        assert torch.equal(ghostify.load(tmp_path / "student.safetensors", model).eval()(images), expected)
