import math

import pytest
import torch
import torchvision
from helpers.networks import Residual, randomize
from torch import fx, nn

import ghostify
from ghostify import ArgumentError, GhostModule, ReducedLinear


def ghosts(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, GhostModule)}


def reasons(student, example_input=None):
    return {row.name: row.reason for row in ghostify.report(student, example_input).rows}


def stack(*layers):
    """The layers behind a first convolution, which stays dense."""
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *layers)


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


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise"])
@pytest.mark.parametrize(
    "followers",
    [
        [],
        [nn.ReLU()],
        [nn.BatchNorm2d(32)],
        [nn.BatchNorm2d(32), nn.ReLU(inplace=True)],
        [nn.BatchNorm2d(32), nn.SiLU(inplace=True)],
        [nn.BatchNorm2d(32), nn.Identity(), nn.LeakyReLU(0.3)],
        [nn.BatchNorm2d(32, affine=False), nn.GELU()],
        [nn.BatchNorm2d(32), nn.PReLU(32)],
        [nn.BatchNorm2d(32), nn.PReLU()],
        [nn.InstanceNorm2d(32, affine=True), nn.ReLU()],
        [nn.SyncBatchNorm(32), nn.ELU()],
        [torchvision.ops.FrozenBatchNorm2d(32), nn.ReLU()],
    ],
    ids=lambda layers: "-".join(type(layer).__name__ for layer in layers) or "nothing",
)
def test_followers_are_taken_in(followers, cheap):
    torch.manual_seed(0)
    model = randomize(stack(nn.Conv2d(32, 32, 3, padding=1, bias=False), *followers)).eval()
    student = ghostify.convert(model, cheap=cheap, skip=("first",))
    ghost = student[1]
    kept = [layer for layer in followers if not isinstance(layer, nn.Identity)]
    assert [type(m) for m in ghost.primary_conv[1:]] == [type(m) for m in kept]
    assert [type(m) for m in ghost.cheap_operation[1:]] == [type(m) for m in kept]
    assert all(isinstance(m, nn.Identity) for m in student[2:])
    x = torch.randn(2, 3, 8, 8)
    channels, _ = ghost.original_channels()
    torch.testing.assert_close(student(x)[:, channels], model(x)[:, channels])  # intrinsic maps are the original's
    student.train()(x).sum().backward()


@pytest.mark.parametrize(
    ("function", "inner"),
    [
        (torch.relu, nn.ReLU),
        (nn.functional.silu, nn.SiLU),
        (lambda x: nn.functional.leaky_relu(x, 0.3), nn.LeakyReLU),
        (lambda x: nn.functional.gelu(x, approximate="tanh"), nn.GELU),
        (lambda x: x.sigmoid(), nn.Sigmoid),
        (lambda x: x.relu_(), nn.ReLU),
    ],
)
def test_functional_activation_stays_and_feeds_the_cheap_operation(function, inner):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.bn = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)

        def forward(self, x):
            return function(self.bn(self.conv(self.stem(x))))

    model = randomize(Net()).eval()
    student = ghostify.convert(model)
    act = student.conv.intrinsic_act
    assert type(act) is inner
    z = torch.randn(4, 16, 5, 5)
    torch.testing.assert_close(act(z.clone()), function(z.clone()))  # with the same settings
    kept, _ = student.conv.original_channels()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(student(x)[:, kept], model(x)[:, kept])


def test_norm_with_other_listeners_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.stem(x)
            a = self.a(x)
            return self.norm(a) + a + self.norm(self.b(x))  # a has two users, the norm two callers

    student = ghostify.convert(Net())
    assert isinstance(student.norm, nn.BatchNorm2d)
    assert len(student.a.primary_conv) == len(student.b.primary_conv) == 1


def test_group_norm_stays_outside():
    student = ghostify.convert(stack(nn.Conv2d(32, 32, 3), nn.GroupNorm(4, 32), nn.ReLU()))
    assert isinstance(student[2], nn.GroupNorm)
    assert isinstance(student[3], nn.ReLU)


@pytest.mark.parametrize("dims", [1, 3])
def test_other_dimensions(dims):
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dims]
    model = nn.Sequential(conv(3, 16, 3), conv(16, 24, 3, padding=1), norm(24), nn.ReLU())
    student = ghostify.convert(model)
    assert type(student[1].cheap_operation[0]) is conv
    x = torch.randn(2, 3, *[9] * dims)
    assert student(x).shape == model(x).shape


def test_grouped_convolution_keeps_equally_many_of_each_group():
    model = randomize(stack(nn.Conv2d(32, 64, 3, groups=8), nn.BatchNorm2d(64), nn.ReLU())).eval()
    student = ghostify.convert(model, 3)
    kept, _ = student[1].original_channels()
    assert student[1].groups == 8
    assert torch.bincount(kept // 8, minlength=8).tolist() == [3] * 8
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(student(x)[:, kept], model(x)[:, kept])


def test_subclasses_of_convolutions_survive():
    from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d

    model = randomize(
        nn.Sequential(
            Conv2dSame(3, 16, 3, 2), Conv2dSame(16, 32, 3, 2), BatchNormAct2d(32), ScaledStdConv2d(32, 32, 3), nn.ReLU()
        )
    ).eval()
    student = ghostify.convert(model)
    assert type(student[1].primary_conv[0]) is Conv2dSame
    assert type(student[1].primary_conv[1]) is BatchNormAct2d
    assert type(student[3].primary_conv[0]) is ScaledStdConv2d
    assert isinstance(student[2], nn.Identity)
    x = torch.randn(2, 3, 33, 33)
    between, expected = student[:3](x), model[:3](x)
    kept, _ = student[1].original_channels()
    torch.testing.assert_close(between[:, kept], expected[:, kept])
    kept, _ = student[3].original_channels()
    torch.testing.assert_close(student[3:](expected)[:, kept], model[3:](expected)[:, kept])


def test_preactivation_network_has_bare_sites():
    student = ghostify.convert("torchvision/densenet121")
    layer = student.features.denseblock1.denselayer1
    assert len(layer.conv2.primary_conv) == 1  # concatenated with others before the next norm
    assert [type(m).__name__ for m in layer.conv1.primary_conv] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert isinstance(layer.norm1, nn.BatchNorm2d)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.a, self.b, self.twice = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.b.weight = self.a.weight
        self.read = nn.Conv2d(16, 16, 3, padding=1)
        self.hooked = nn.Conv2d(16, 16, 3, padding=1)
        self.hooked.register_forward_hook(lambda *_: None)
        self.good = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = self.twice(self.twice(self.b(self.a(self.stem(x)))))
        return self.good(self.hooked(self.read(x))).relu() * self.read.weight.mean()


def test_every_skip_has_its_reason():
    def skipped(layer):
        model = stack(layer, nn.Conv2d(32, 32, 3), nn.ReLU())
        return reasons(ghostify.convert(model))["1"]

    assert "depthwise" in skipped(nn.Conv2d(32, 32, 3, groups=32))
    assert "transposed" in skipped(nn.ConvTranspose2d(32, 32, 3))
    assert "parametrised" in skipped(nn.utils.parametrizations.weight_norm(nn.Conv2d(32, 32, 3)))
    assert "parametrised" in skipped(nn.utils.spectral_norm(nn.Conv2d(32, 32, 3)))
    assert "quantised" in skipped(torch.ao.nn.qat.Conv2d(32, 32, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig()))
    tied = reasons(ghostify.convert(Tied()))
    assert "first" in tied["stem"]
    assert "same parameters stand in more than one place" in tied["a"]
    assert "same parameters stand in more than one place" in tied["b"]
    assert "called 2 times" in tied["twice"]
    assert "read from outside" in tied["read"]
    assert "hooks" in tied["hooked"]
    assert tied["good"] is None
    few = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 3), nn.Conv2d(4, 32, 1), nn.Conv2d(32, 32, 3), nn.ReLU())
    found = reasons(ghostify.convert(few))
    assert "too few channels" in found["1"]
    assert "a ghost map costs 9, a dense one 4" in found["2"]


def test_layers_that_give_the_outputs_stay_dense():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.body, self.low, self.high = (nn.Conv2d(c, 16, 3, padding=1) for c in (3, 16, 16, 16))
            self.norm, self.normed, self.active = nn.GroupNorm(4, 16), *(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

        def forward(self, x):
            y = self.stem(x).relu()
            z = self.body(y)  # goes to the output by itself, and on
            scores = nn.functional.interpolate(self.low(y) + self.high(z), size=x.shape[-2:])
            return {"out": scores.sigmoid(), "z": z, "normed": self.norm(self.normed(z)), "relu": self.active(z).relu()}

    found = reasons(ghostify.convert(Segmenter()))
    assert {name for name, reason in found.items() if reason is None} == {"body", "normed", "active"}
    assert "gives the network's outputs" in found["low"]
    assert found["low"] == found["high"]
    assert reasons(ghostify.convert(Segmenter(), skip=("first", "pooled")))["high"] is None
    assert reasons(ghostify.convert(Segmenter(), ratios={"low": 2}))["low"] is None


def test_old_style_weight_norm_is_skipped():
    model = stack(nn.utils.weight_norm(nn.Conv2d(32, 32, 3)), nn.Conv2d(32, 32, 3), nn.ReLU())
    student = ghostify.convert(model)
    assert "parametrised" in reasons(student)["1"]
    x = torch.randn(1, 3, 9, 9)
    assert student(x).shape == model(x).shape


def test_unknown_convolution_class_is_listed():
    class StrangeConv(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(32, 32, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight)

    found = reasons(ghostify.convert(stack(StrangeConv(), nn.Conv2d(32, 32, 3), nn.ReLU())))
    assert "register_pattern" in found["1"]


def test_skip_is_a_choice():
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1)]
    model = stack(nn.Conv2d(32, 32, 3), *pooled)
    assert list(ghosts(ghostify.convert(model))) == ["1"]
    assert list(ghosts(ghostify.convert(model, skip=("first",)))) == ["1", "3"]
    assert list(ghosts(ghostify.convert(model, skip=()))) == ["0", "1", "3"]
    assert list(ghosts(ghostify.convert(model, ratios={"0": 2}))) == ["0", "1"]  # named in full


def test_ratios_by_glob():
    model = torchvision.models.resnet18()
    student = ghostify.convert(model, 2, ratios={"layer4.*": 4, "layer*.conv2": 3, "layer1.0.conv1": None})
    found = {row.name: row.ratio for row in ghostify.report(student).rows}
    assert found["layer4.0.conv1"] == 4
    assert found["layer4.0.conv2"] == 3  # the last match wins
    assert found["layer1.0.conv1"] is None
    assert found["layer1.1.conv1"] == 2
    with pytest.raises(ArgumentError, match=r"layer9.*close names: .*layer"):
        ghostify.convert(model, ratios={"layer9.0.conv1": 2})


@pytest.mark.parametrize("ratio", [1.5, 2, 3])
def test_round_to(ratio):
    student = ghostify.convert(torchvision.models.resnet18(), ratio, round_to=8)
    assert all(g.intrinsic_channels % 8 == 0 for g in ghosts(student).values())


def test_min_channels():
    student = ghostify.convert(torchvision.models.resnet18(), min_channels=256)
    assert min(g.out_channels for g in ghosts(student).values()) == 256


def test_cheap_auto_chooses_by_kernel():
    student = ghostify.convert(torchvision.models.resnet50(), cheap="auto")
    assert student.layer2[1].conv2.cheap == "pointwise"
    assert student.layer2[1].conv3.cheap == "depthwise"


def test_linear_ratio_keeps_the_last_layer():
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    student = ghostify.convert(model, linear_ratio=4)
    assert isinstance(student.classifier[0], ReducedLinear)
    assert isinstance(student.classifier[3], ReducedLinear)
    assert isinstance(student.classifier[6], nn.Linear)
    before = 25088 * 4096
    assert sum(p.numel() for p in student.classifier[0].parameters()) == pytest.approx(before / 4, rel=0.01)
    named = ghostify.convert(model, linear_ratio=4, ratios={"classifier.6": 3})
    assert isinstance(named.classifier[6], ReducedLinear)


def test_linear_alone_and_without_linear_ratio():
    student = ghostify.convert(torchvision.models.alexnet(), ratios={"classifier.1": 8})
    assert isinstance(student.classifier[1], ReducedLinear)
    assert isinstance(student.classifier[4], nn.Linear)


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
        model = torchvision.models.resnet50()
    student = ghostify.convert(model)
    assert all(p.is_meta for p in student.parameters())
    planned, real = ghostify.report(student), ghostify.report(ghostify.convert(torchvision.models.resnet50()))
    assert planned.rows == real.rows
    assert planned.before == real.before
    assert (planned.after.params, planned.after.flops) == (real.after.params, real.after.flops)


def test_parts_where_the_whole_does_not_trace():
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    student = ghostify.convert(model)
    assert isinstance(student.backbone.features[0][0][0], nn.Conv2d)  # first
    assert len(ghosts(student)) > 20
    with torch.no_grad():
        assert student([torch.rand(3, 320, 320)])[0].keys() == {"boxes", "scores", "labels"}


def test_data_dependent_block_is_opaque_and_the_rest_still_traces():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())

        def forward(self, x):
            return self.body(x) if x.sum() > 0 else x

    model = stack(nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), Gate(), nn.Conv2d(32, 32, 3), nn.ReLU())
    assert set(ghosts(ghostify.convert(model))) == {"1", "3.body.0", "4"}


def test_convolutions_right_under_a_model_that_does_not_trace():
    class Net(Residual):
        def forward(self, x):
            return super().forward(x * 2 if x.sum() > 0 else x)

    assert set(ghosts(ghostify.convert(Net()))) == {"conv1", "conv2"}


def test_activation_with_a_computed_setting_is_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
            self.slope = nn.Parameter(torch.tensor(0.1))

        def forward(self, x):
            return nn.functional.softplus(self.conv(self.stem(x)), beta=self.slope)

    assert ghostify.convert(Net()).conv.intrinsic_act is None


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


def test_heads_that_only_training_uses_are_found():
    model = torchvision.models.googlenet(init_weights=False)
    student = ghostify.convert(model)
    assert {"aux1.conv.conv", "aux2.conv.conv"} <= set(ghosts(student))
    outputs = student.train()(torch.randn(2, 3, 96, 96))
    assert outputs.aux_logits1.shape == (2, 1000)


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


def test_register_pattern():
    from ghostify.layers.patterns import _TABLE

    class ScaledConv(nn.Module):
        """Not a subclass of Conv2d: a convolution whose output has a gain for each channel."""

        def __init__(self, inputs, outputs):
            super().__init__()
            self.in_channels, self.out_channels = inputs, outputs
            self.kernel_size, self.stride, self.padding, self.dilation, self.groups = (3, 3), (1, 1), 1, (1, 1), 1
            self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
            self.gain = nn.Parameter(torch.rand(outputs, 1, 1))

        def forward(self, x):
            return nn.functional.conv2d(x, self.weight, padding=1) * self.gain

    class Offset(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.shift = nn.Parameter(torch.randn(1, channels, 1, 1))

        def forward(self, x):
            return x + self.shift

    def narrow_offset(module, channels):
        narrowed = Offset(len(channels))
        narrowed.shift = nn.Parameter(module.shift.detach()[:, channels])
        return narrowed

    model = stack(ScaledConv(32, 32), Offset(32), nn.ReLU()).eval()
    try:
        ghostify.register_pattern(ScaledConv, "conv")
        ghostify.register_pattern(Offset, "norm", narrow=narrow_offset)
        student = ghostify.convert(model)
    finally:
        _TABLE.pop(ScaledConv, None), _TABLE.pop(Offset, None)
    assert [type(m).__name__ for m in student[1].primary_conv] == ["ScaledConv", "Offset", "ReLU"]
    kept, _ = student[1].original_channels()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(student(x)[:, kept], model(x)[:, kept])


def test_methods_of_the_class_still_work():
    import timm

    student = ghostify.convert(timm.create_model("resnet18", num_classes=7))
    x = torch.randn(1, 3, 64, 64)
    features = student.forward_features(x)
    assert features.shape == (1, 512, 2, 2)
    student.reset_classifier(5)
    assert student(x).shape == (1, 5)
    assert [f.shape[1] for f in student.forward_intermediates(x, intermediates_only=True)] == [64, 64, 128, 256, 512]
