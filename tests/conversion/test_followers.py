"""Norms and activations behind a convolution are taken into its Ghost module."""

import pytest
import torch
import torchvision
from helpers.conversion import stack
from helpers.networks import randomize
from torch import nn

import ghostify


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


def test_activation_with_a_computed_setting_is_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
            self.slope = nn.Parameter(torch.tensor(0.1))

        def forward(self, x):
            return nn.functional.softplus(self.conv(self.stem(x)), beta=self.slope)

    assert ghostify.convert(Net()).conv.intrinsic_act is None
