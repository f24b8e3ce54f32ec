import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ghostify
from ghostify.surgery.source_choice import choose_sources


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_choice_of_sources_is_a_valid_one(data):
    groups = data.draw(st.integers(1, 4))
    size = data.draw(st.integers(2, 9))
    n, m = groups * size, groups * data.draw(st.integers(1, size - 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    cost = torch.randint(0, data.draw(st.sampled_from([1, 4, 1000])), (n, n), generator=generator).float()
    intrinsic, sources = choose_sources(cost, m, groups)
    assert intrinsic.tolist() == sorted(set(intrinsic.tolist()))
    assert torch.bincount(intrinsic // size, minlength=groups).tolist() == [m // groups] * groups
    assert len(sources) == n - m
    assert sources.min() >= 0
    assert torch.bincount(sources, minlength=m).max() <= -(-(n - m) // m)
    again = choose_sources(cost, m, groups)
    assert torch.equal(intrinsic, again[0])
    assert torch.equal(sources, again[1])


def test_channels_that_cost_the_same_are_taken_as_the_paper_does():
    intrinsic, sources = choose_sources(torch.zeros(4000, 4000), 1000, groups=4)  # one source a round would take minutes
    assert intrinsic.tolist() == [1000 * group + i for group in range(4) for i in range(250)]
    assert sources.tolist() == [i // 3 for i in range(3000)]


def total_cost(cost, intrinsic, sources):
    others = [j for j in range(len(cost)) if j not in intrinsic.tolist()]
    return sum(cost[j, intrinsic[s]].item() for j, s in zip(others, sources.tolist(), strict=True))


def best_cost(cost, m):
    """By trying everything, each source used at most once."""
    n = len(cost)
    return min(
        sum(cost[j, i].item() for i, j in zip(order, [j for j in range(n) if j not in kept], strict=True))
        for kept in itertools.combinations(range(n), m)
        for order in itertools.permutations(kept, n - m)
    )


def test_greedy_choice_is_near_the_best_one():
    gaps = []
    for seed in range(20):
        cost = torch.rand(8, 8, generator=torch.Generator().manual_seed(seed))
        best, positional = best_cost(cost, 4), total_cost(cost, torch.arange(4), torch.arange(4))
        gaps.append((total_cost(cost, *choose_sources(cost, 4)) - best) / (positional - best))
    assert sum(gaps) / len(gaps) < 0.25  # of the way from the best choice to the one by position


def test_a_copy_of_a_channel_is_made_from_it_exactly():
    """Channels 4 to 7 are channels 0 to 3 again, at other scales: one tap reproduces them, whatever the norm says."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    conv.weight.data[4:] = conv.weight.data[:4] * torch.tensor([0.5, 2.0, 3.0, 0.1]).view(4, 1, 1, 1)
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.uniform_(-0.5, 0.5)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), conv, norm)
    images = torch.randn(256, 3, 12, 12)
    norm.momentum = None
    model.train()(images)  # statistics that agree with the data
    model.eval()
    student = ghostify.convert(model, min_channels=8)
    kept, made = student[1].original_channels()
    assert {k % 4 for k in kept.tolist()} == {0, 1, 2, 3}
    out, expected = student(images)[:, made], model(images)[:, made]
    for channel in range(4):
        corr = torch.corrcoef(torch.stack([out[:, channel].flatten(), expected[:, channel].flatten()]))[0, 1]
        assert corr > 0.9999


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise"])
@pytest.mark.parametrize("act", [nn.Identity, nn.ReLU, nn.SiLU])
def test_fit_agrees_with_least_squares_on_white_noise(cheap, act):
    """The closed form is what regression finds on inputs that are what it assumes."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.uniform_(-1, 1)
    noise = torch.randn(400, 8, 10, 10)
    norm.momentum = None
    norm.train()(conv(noise))
    layers = [conv, norm] + ([act()] if act is not nn.Identity else [])
    dense = nn.Sequential(nn.Conv2d(3, 8, 1), *layers).eval()
    # a 1x1 convolution with the dense cost of one map below the cheap one's would stay dense: use d = 1
    ghost = ghostify.convert(dense, dw_size=1, cheap=cheap, skip=())[1]
    _, made = ghost.original_channels()
    intrinsic = ghost.primary_conv(noise)
    target = norm(conv(noise))[:, made]
    cheap_conv, cheap_norm = ghost.cheap_operation[:2]
    fitted = cheap_norm(cheap_conv(intrinsic))
    flat = intrinsic.transpose(0, 1).flatten(1)
    for k in range(len(made)):
        sources = flat if cheap == "pointwise" else flat[ghost.source_positions()[k]][None]
        design = torch.cat([sources, torch.ones_like(flat[:1])]).T.double()
        y = target[:, k].flatten().double()
        best = design @ torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
        left, least = (fitted[:, k].flatten() - y).var(), (best - y).var()
        assert left <= least * 1.03 + 0.01 * y.var()


def test_kernels_have_the_length_of_the_filters_they_replace():
    student = ghostify.convert("torchvision/resnet18")
    dense = ghostify.create_model("torchvision/resnet18")
    student = ghostify.convert(dense)
    ghost = student.layer2[0].conv1
    _, made = ghost.original_channels()
    lengths = ghost.cheap_operation[0].weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, dense.layer2[0].conv1.weight[made].flatten(1).norm(dim=1))
