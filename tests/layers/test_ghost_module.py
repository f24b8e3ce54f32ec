import math

import pytest
import torch
from torch import nn

from ghostify import ArgumentError, GhostModule, ReducedLinear
from ghostify.common.costs import measure
from ghostify.deployment.folded_ghost import fold_ghost


def paper_module(in_channels, out_channels, kernel_size, ratio, dw_size, stride):
    from timm.models.ghostnet import GhostModule as TimmGhostModule

    return TimmGhostModule(in_channels, out_channels, kernel_size, ratio, dw_size, stride)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size", "ratio", "dw_size", "stride"),
    [(16, 32, 1, 2, 3, 1), (8, 24, 3, 3, 3, 2), (8, 32, 3, 4, 5, 1), (16, 64, 5, 2, 1, 2), (4, 12, 1, 2, 7, 1)],
)
def test_equals_timm(in_channels, out_channels, kernel_size, ratio, dw_size, stride, training):
    torch.manual_seed(0)
    theirs = paper_module(in_channels, out_channels, kernel_size, ratio, dw_size, stride).double()
    ours = GhostModule(in_channels, out_channels, kernel_size, ratio, dw_size, stride).double()
    ours.load_state_dict(theirs.state_dict())
    theirs.train(training), ours.train(training)
    first = torch.randn(2, in_channels, 9, 9, dtype=torch.double, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    expected, got = theirs(first), ours(second)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(second.grad, first.grad, rtol=0, atol=1e-6)
    for (name, p), (other, q) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("out_channels", "ratio"), [(25, 2), (64, 3), (9, 4), (50, 3)])
def test_equals_timm_where_the_ratio_does_not_divide(out_channels, ratio):
    """timm computes m (s - 1) ghosts and drops the last ones; ours never computes them."""
    theirs = paper_module(8, out_channels, 3, ratio, 3, 1).eval()
    ours = GhostModule(8, out_channels, 3, ratio, 3).eval()
    ghosts = out_channels - math.ceil(out_channels / ratio)
    assert ours.cheap_operation[0].out_channels == ghosts < theirs.cheap_operation[0].out_channels
    state = {k: v[:ghosts] if k.startswith("cheap") and v.dim() else v for k, v in theirs.state_dict().items()}
    if ours.ghost_source is not None:
        state["ghost_source"] = ours.ghost_source
    ours.load_state_dict(state)
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio", [1.2, 1.5, 2, 2.5, 3, 4, 7.3])
@pytest.mark.parametrize("out_channels", [8, 13, 64])
@pytest.mark.parametrize("cheap", ["depthwise", "pointwise"])
def test_computes_exactly_the_maps_it_returns(ratio, out_channels, cheap):
    module = GhostModule(6, out_channels, 3, ratio, cheap=cheap, norm_layer=None, act_layer=None)
    m = math.ceil(out_channels / ratio)
    per_ghost = m if cheap == "pointwise" else 9
    assert module.intrinsic_channels == m
    flops = measure(module, (torch.zeros(1, 6, 10, 10),)).flops
    assert flops == 100 * (m * 6 * 9 + (out_channels - m) * per_ghost)


def test_takes_part_in_a_new_network():
    model = nn.Sequential(GhostModule(3, 16, 3), GhostModule(16, 32, 3, ratio=3, stride=2, act_layer=nn.SiLU))
    out = model(torch.randn(2, 3, 8, 8))
    assert out.shape == (2, 32, 4, 4)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"ratio": 1}, "ratio"),
        ({"dw_size": 2}, "dw_size"),
        ({"ratio": float("nan")}, "ratio"),
        ({"ratio": 1.01}, "ratio"),
    ],
)
def test_refuses_bad_settings(settings, word):
    with pytest.raises(ArgumentError, match=word):
        GhostModule(3, 8, **settings)


def dense_reference(module: GhostModule, x: torch.Tensor) -> torch.Tensor:
    """Every output channel by itself, straight from the definition."""
    intrinsic = module.primary_conv(x)
    fed = intrinsic if module.intrinsic_act is None else module.intrinsic_act(intrinsic)
    kept, made = module.original_channels()
    conv, *followers = module.cheap_operation
    out = torch.empty(x.shape[0], module.out_channels, *intrinsic.shape[2:])
    out[:, kept] = intrinsic
    maps = []
    for kernel, source in zip(conv.weight, module.source_positions().tolist(), strict=True):
        maps.append(nn.functional.conv2d(fed[:, [source]], kernel[None], padding=conv.padding))
    ghosts = torch.cat(maps, 1)
    for layer in followers:
        ghosts = layer(ghosts)
    out[:, made] = ghosts
    return out


@pytest.mark.parametrize("sources", [[0, 1, 2, 3], [3, 1, 0, 2], [0, 0, 1, 1], [2, 2, 2, 2], [1, 0, 1, 3], [0, 1, 2, 0]])
@pytest.mark.parametrize("inside", [True, False])
def test_from_conv_follows_channels_and_sources(sources, inside):
    torch.manual_seed(1)
    conv, norm = nn.Conv2d(5, 8, 3, padding=1), nn.BatchNorm2d(8)
    norm.running_mean.uniform_(-1, 1)
    intrinsic = torch.tensor([6, 0, 3, 5])
    module = GhostModule.from_conv(
        conv, intrinsic.sort().values, torch.tensor(sources), norm=norm, act=nn.SiLU(), act_inside=inside
    )
    module.cheap_operation[0].weight.data.normal_()
    module.eval(), norm.eval()
    x = torch.randn(2, 5, 7, 7)
    out = module(x)
    torch.testing.assert_close(out, dense_reference(module, x))
    expected = norm(conv(x))
    expected = nn.functional.silu(expected) if inside else expected
    torch.testing.assert_close(out[:, intrinsic], expected[:, intrinsic])  # these are the original's
    # a state dict carries the order and the sources into a module that has neither
    plain = GhostModule.from_conv(conv, torch.arange(4), torch.arange(4), norm=norm, act=nn.SiLU(), act_inside=inside).eval()
    plain.load_state_dict(module.state_dict())
    torch.testing.assert_close(plain(x), out)
    # and back: a state dict without them removes them
    back = GhostModule.from_conv(conv, torch.arange(4), torch.arange(4), norm=norm, act=nn.SiLU(), act_inside=inside)
    module.load_state_dict(back.state_dict())
    torch.testing.assert_close(module.eval()(x), back.eval()(x))


def test_unbatched_input():
    module = GhostModule.from_conv(nn.Conv2d(3, 8, 3), torch.arange(4), torch.arange(4))
    x = torch.randn(3, 6, 6)
    torch.testing.assert_close(module(x), module(x[None])[0])


@pytest.mark.parametrize(("inputs", "outputs"), [(40, 24), (24, 40)])
def test_reduced_linear_is_the_best_of_its_rank(inputs, outputs):
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs)
    reduced = ReducedLinear.from_linear(linear, rank=7)
    u, s, v = torch.linalg.svd(linear.weight.double())
    best = (u[:, :7] * s[:7]) @ v[:7]
    torch.testing.assert_close((reduced.expand.weight @ reduced.reduce.weight).double(), best, rtol=0, atol=1e-5)
    torch.testing.assert_close(reduced.expand.bias, linear.bias)


def test_reduced_linear_at_a_ratio_and_at_full_rank():
    linear = nn.Linear(64, 32, bias=False).double()
    reduced = ReducedLinear.from_linear(linear, ratio=4)
    assert sum(p.numel() for p in reduced.parameters()) <= 64 * 32 / 4
    full = ReducedLinear.from_linear(linear, rank=32)
    x = torch.randn(3, 64).double()
    torch.testing.assert_close(full(x), linear(x))


@pytest.mark.parametrize("settings", [{}, {"rank": 4, "ratio": 2}, {"rank": 0}, {"rank": 99}, {"ratio": 1}])
def test_reduced_linear_refuses(settings):
    with pytest.raises(ArgumentError, match=r"rank|ratio"):
        ReducedLinear.from_linear(nn.Linear(8, 8), **settings)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_code_that_reads_a_weight_is_told_what_it_can_take(name):
    """Ultralytics' fuse() reads weights, as does much code around convolutions."""
    module = GhostModule(4, 8)
    assert not hasattr(module, name)
    with pytest.raises(AttributeError, match=rf"a GhostModule has no {name}: .* cheap='absorbed'"):
        getattr(module, name)
    with pytest.raises(AttributeError, match="'GhostModule' object has no attribute 'wieght'"):
        module.wieght  # noqa: B018


def test_activations_may_be_set_to_work_in_place():
    """Ultralytics does so when it reads a file; intrinsic maps leave without the activation that ghosts are made through."""
    conv, act = torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU()
    module = GhostModule.from_conv(conv, torch.arange(4), torch.arange(4), act=act, act_inside=False).eval()
    x = torch.rand(2, 3, 6, 6)
    expected, folded = module(x), fold_ghost(module)(x)
    module.intrinsic_act.inplace = True
    assert torch.equal(module(x), expected)
    torch.testing.assert_close(fold_ghost(module)(x), folded)
    module(x).square().sum().backward()
