"""convert(): which layers become Ghost modules, and that the rest stays."""

import math

import pytest
import torch
import torchvision
from helpers.conversion import ghosts, stack
from helpers.networks import Residual, randomize
from torch import fx, nn

import ghostify
from ghostify import GhostModule


def test_resnet_layers():
    model = torchvision.models.resnet18()
    student = ghostify.convert(model)
    assert type(student) is type(model)
    assert len(ghosts(student)) == 19
    assert isinstance(student.conv1, nn.Conv2d)
    assert isinstance(student.layer1[0].bn1, nn.Identity)
    assert isinstance(student.layer1[0].relu, nn.ReLU)  # shared by two places: stays
    block = student.layer1[0].conv1
    assert [type(m).__name__ for m in block.primary_conv] == ["Conv2d", "BatchNorm2d"]
    assert isinstance(block.intrinsic_act, nn.ReLU)
    assert not block.intrinsic_act.inplace
    x = torch.randn(2, 3, 64, 64)
    assert student(x).shape == model(x).shape


@pytest.mark.parametrize("ratio", [1.5, 2, 2.7, 4])
def test_intrinsic_channels_of_any_real_ratio(ratio):
    student = ghostify.convert(stack(nn.Conv2d(32, 50, 3), nn.ReLU()), ratio)
    assert student[1].intrinsic_channels == math.ceil(50 / ratio)
    assert student[1].cheap_operation[0].out_channels == 50 - math.ceil(50 / ratio)


def test_graph_module_comes_back_rewritten():
    model = randomize(Residual()).eval()
    traced = fx.symbolic_trace(model)
    student = ghostify.convert(traced)
    assert isinstance(student, fx.GraphModule)
    assert set(ghosts(student)) == {"conv1", "conv2"}
    assert not any(isinstance(m, nn.Identity) for m in student.modules())
    assert "bn1" not in student.code
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(student(x), ghostify.convert(model)(x))
    assert ghostify.report(student, x).rows
    assert "bn1" in traced.code
    traced.add_submodule("spare", nn.Linear(3, 3))
    assert isinstance(ghostify.convert(traced, inplace=True).spare, nn.Linear)


def test_constructor_and_names():
    for model in (torchvision.models.resnet18, "resnet18", "timm/resnet18", "torchvision/resnet18"):
        assert ghosts(ghostify.convert(model))
    assert type(ghostify.convert("resnet18")).__module__.startswith("timm")  # timm is asked first
    assert ghosts(ghostify.convert("squeezenet1_0"))  # torchvision's alone


def test_meta_device():
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    student = ghostify.convert(model)
    assert all(p.is_meta for p in student.parameters())
    planned, real = ghostify.report(student), ghostify.report(ghostify.convert(torchvision.models.resnet18()))
    assert planned.rows == real.rows
    assert planned.before == real.before
    assert (planned.after.params, planned.after.flops) == (real.after.params, real.after.flops)


def test_code_around_a_convolution_may_ask_for_its_settings():
    conv = nn.Conv2d(8, 16, 3, 2, padding=2, dilation=2, groups=2, padding_mode="reflect")
    ghost = ghostify.convert(conv, skip=())
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    assert [getattr(ghost, name) for name in names] == [getattr(conv, name) for name in names]


def test_default_device_of_the_caller_does_not_matter():
    model = randomize(Residual())
    with torch.device("meta"):
        student = ghostify.convert(model)
        report = ghostify.report(student, (1, 3, 8, 8))
    assert not any(t.is_meta for t in student.state_dict().values())
    assert report == ghostify.report(ghostify.convert(model), (1, 3, 8, 8))


def test_converting_twice_changes_nothing():
    once = ghostify.convert(randomize(Residual()))
    twice = ghostify.convert(once)
    assert ghostify.report(twice, (1, 3, 8, 8)) == ghostify.report(once, (1, 3, 8, 8))
    for (name, a), (other, b) in zip(once.state_dict().items(), twice.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)


def test_ghost_modules_that_were_there_already_are_listed():
    model = stack(GhostModule(32, 48, 3), nn.Conv2d(48, 32, 3))
    report = ghostify.report(ghostify.convert(model), (1, 3, 9, 9))
    row = report.rows[1]
    assert row.reason == "already part of a Ghost module"
    assert row.flops_before == row.flops_after == 81 * (24 * 32 * 9 + 24 * 9)
    assert isinstance(ghostify.convert(nn.Sequential(GhostModule(3, 8))), nn.Sequential)  # nothing to do, no error
    timm_ghosts = ghostify.report(ghostify.convert("timm/ghostnet_050")).rows
    assert "already part of a Ghost module" in [row.reason for row in timm_ghosts]


def test_second_conversion_can_go_further():
    once = ghostify.convert(randomize(Residual()), ratios={"conv2": None})
    twice = ghostify.convert(once)
    assert set(ghosts(twice)) == {"conv1", "conv2"}
    assert len(ghostify.report(twice, (1, 3, 8, 8)).converted) == 2


def test_random_init_is_seeded_and_leaves_the_callers_randomness_alone():
    model = Residual()
    state = torch.random.get_rng_state()
    a, b, c = (ghostify.convert(model, init="random", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(a.conv1.primary_conv[0].weight, b.conv1.primary_conv[0].weight)
    assert not torch.equal(a.conv1.primary_conv[0].weight, c.conv1.primary_conv[0].weight)
    assert not torch.equal(a.conv1.primary_conv[0].weight, a.conv2.primary_conv[0].weight)
    assert torch.equal(a.conv1.cheap_operation[1].running_var, torch.ones(8))
    assert a.conv1.channel_order is None
    assert torch.equal(a.stem.weight, model.stem.weight)


def test_warm_start_is_deterministic():
    model = randomize(Residual())
    first, second = ghostify.convert(model), ghostify.convert(model)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_inplace():
    model = randomize(Residual()).eval()
    copy = ghostify.convert(model)
    assert not ghosts(model)
    assert ghostify.convert(model, inplace=True) is model
    assert set(ghosts(model)) == {"conv1", "conv2"}
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(model(x), copy(x))


def test_student_made_in_inference_mode_trains():
    with torch.inference_mode():
        student = ghostify.convert(Residual())
    student(torch.randn(2, 3, 8, 8)).sum().backward()


def test_a_convolution_by_itself():
    conv = nn.Conv2d(16, 32, 3)
    ghost = ghostify.convert(conv, skip=())
    assert isinstance(ghost, GhostModule)
    assert ghostify.report(ghost, (1, 16, 5, 5)).before.params == sum(p.numel() for p in conv.parameters())


def test_methods_of_the_class_still_work():
    import timm

    student = ghostify.convert(timm.create_model("resnet18", num_classes=7))
    x = torch.randn(1, 3, 64, 64)
    features = student.forward_features(x)
    assert features.shape == (1, 512, 2, 2)
    student.reset_classifier(5)
    assert student(x).shape == (1, 5)
    assert [f.shape[1] for f in student.forward_intermediates(x, intermediates_only=True)] == [64, 64, 128, 256, 512]
