"""Nothing is lost: properties of conversion over random small networks."""

import copy
import io
import pickle

import pytest
import torch
from helpers.networks import Residual, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ghostify
from ghostify import GhostModule
from ghostify.surgery.swap import make_swaps


class RandomNet(nn.Module):
    """A stem and blocks drawn at random: groups, strides, norms or none, activations as modules, functions, or none."""

    def __init__(self, draw):
        super().__init__()
        channels = 12
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList()
        self.functional = []
        self.shortcut = []
        shared = nn.ReLU()
        for _ in range(draw(st.integers(1, 4))):
            out = draw(st.sampled_from([8, 12, 18, 24]))
            groups = draw(st.sampled_from([1, 1, 2]))
            kernel, stride = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([1, 1, 2]))
            conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=draw(st.booleans()))
            norm = draw(st.sampled_from([None, nn.BatchNorm2d, nn.GroupNorm]))
            act = draw(st.sampled_from([None, nn.ReLU, nn.SiLU, "shared", "function"]))
            layers = [conv]
            if norm is not None:
                layers.append(norm(out) if norm is nn.BatchNorm2d else nn.GroupNorm(2, out))
            if act == "shared":
                layers.append(shared)
            elif isinstance(act, type):
                layers.append(act())
            self.blocks.append(nn.Sequential(*layers))
            self.functional.append(act == "function")
            self.shortcut.append(out == channels and stride == 1 and draw(st.booleans()))
            channels = out
        self.last = nn.Conv2d(channels, 16, 3, padding=1)  # so that there is always something to convert
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        for block, functional, shortcut in zip(self.blocks, self.functional, self.shortcut, strict=True):
            y = block(x)
            y = nn.functional.hardswish(y) if functional else y
            x = y + x if shortcut else y
        return self.head(self.last(x).mean((2, 3)))


@st.composite
def networks(draw):
    torch.manual_seed(draw(st.integers(0, 99)))
    model = randomize(RandomNet(draw))
    return model.train(draw(st.booleans()))


OPTIONS = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([1.5, 2, 3, 4.2]),
        "dw_size": st.sampled_from([1, 3, 5]),
        "cheap": st.sampled_from(["depthwise", "pointwise", "auto"]),
        "init": st.sampled_from(["warm", "random"]),
    }
)


def snapshot(model):
    return {name: (id(value), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}


def unchanged(model, before):
    now = model.state_dict(keep_vars=True)
    return now.keys() == before.keys() and all(
        id(now[name]) == identity and torch.equal(now[name], value) for name, (identity, value) in before.items()
    )


@settings(max_examples=15, deadline=None)
@given(networks(), OPTIONS)
def test_everything_but_the_sites_is_kept(model, options):
    check_what_is_kept(model, options)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(networks(), OPTIONS)
def test_everything_but_the_sites_is_kept_in_more_networks(model, options):
    check_what_is_kept(model, options)


def check_what_is_kept(model, options):
    before, modules, randomness = snapshot(model), dict(model.named_modules()), torch.random.get_rng_state()
    modes = {name: m.training for name, m in modules.items()}
    model.stem.weight.requires_grad_(False)
    model.last.weight.requires_grad_(False)
    student = ghostify.convert(model, **options)
    # the original
    assert unchanged(model, before)
    assert dict(model.named_modules()) == modules
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert torch.equal(randomness, torch.random.get_rng_state())
    # the student
    assert type(student) is type(model)
    assert {name: m.training for name, m in student.named_modules() if name in modes} == modes
    assert isinstance(student.last, GhostModule)
    assert not student.stem.weight.requires_grad
    assert not student.last.primary_conv[0].weight.requires_grad
    assert not student.last.cheap_operation[0].weight.requires_grad
    shared = {t.data_ptr() for t in model.state_dict().values()} & {t.data_ptr() for t in student.state_dict().values()}
    assert not shared
    x = torch.randn(2, 3, 9, 9)
    student.eval(), model.eval()
    out = student(x)
    assert out.shape == model(x).shape
    # copies of the student
    torch.testing.assert_close(copy.deepcopy(student)(x), out)
    again = pickle.loads(pickle.dumps(_picklable(student)))
    torch.testing.assert_close(_restore(again, student)(x), out)
    fresh = ghostify.convert(model, **{**options, "init": "random", "seed": 5}).eval()
    fresh.load_state_dict(student.state_dict())
    torch.testing.assert_close(fresh(x), out)
    # it trains
    student.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)


def _picklable(student):
    return dict(student.named_children()) | {"recipe": student._ghostify_recipe}


def _restore(children, student):
    clone = copy.copy(student)
    clone._modules = {name: m for name, m in children.items() if isinstance(m, nn.Module)}
    assert children["recipe"] == student._ghostify_recipe
    return clone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.half])
def test_dtype(dtype):
    model = randomize(Residual(act=nn.PReLU)).to(dtype).eval()
    student = ghostify.convert(model)
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert ghostify.report(student, (1, 3, 8, 8)).after.flops
    assert student(torch.randn(2, 3, 8, 8, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_low_precision_chooses_the_same_channels_as_full_precision(dtype):
    low = randomize(Residual()).to(dtype)
    full = copy.deepcopy(low).float()
    a, b = ghostify.convert(low), ghostify.convert(full)
    assert torch.equal(a.conv1.original_channels()[0], b.conv1.original_channels()[0])


def test_memory_format():
    model = randomize(Residual()).to(memory_format=torch.channels_last).eval()
    student = ghostify.convert(model)
    assert student.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert student.conv1.primary_conv[0].weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    maps = student.conv1(student.stem(x))
    assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_device():
    model = randomize(Residual()).cuda()
    student = ghostify.convert(model)
    assert {t.device.type for t in student.state_dict().values()} == {"cuda"}
    assert student(torch.randn(2, 3, 8, 8, device="cuda")).shape == (2, 10)


def test_hooks_on_untouched_modules():
    model = Residual()
    calls = []
    model.head.register_forward_hook(lambda *_: calls.append("head"))
    model.register_forward_pre_hook(lambda *_: calls.append("model"))
    student = ghostify.convert(model)
    assert not calls  # tracing runs none of them
    student(torch.randn(1, 3, 8, 8))
    assert calls == ["model", "head"]


def test_hooks_on_an_activation_fire_as_before():
    model, shapes = Residual(), []
    model.act.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    student = ghostify.convert(model)
    student(torch.randn(1, 3, 8, 8))
    assert shapes == [(1, 16, 8, 8)] * 2


def test_pickle_of_a_graph_module_keeps_the_recipe():
    student = ghostify.convert(torch.fx.symbolic_trace(Residual()))
    for again in (pickle.loads(pickle.dumps(student)), copy.deepcopy(student)):
        assert ghostify.report(again, (1, 3, 8, 8)) == ghostify.report(student, (1, 3, 8, 8))


def test_pickle_of_a_whole_student():
    student = ghostify.convert(randomize(Residual())).eval()
    again = pickle.loads(pickle.dumps(student))
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(again(x), student(x))
    assert ghostify.report(again, x) == ghostify.report(student, x)
    buffer = io.BytesIO()
    torch.save(student, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(x), student(x))


@pytest.mark.parametrize("options", [{}, {"cheap": "pointwise"}, {"ratio": 3}])
def test_export_and_compile(options):
    student = ghostify.convert(randomize(Residual(18, nn.SiLU)), **options).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = student(x)
    exported = torch.export.export(student, (x,))
    torch.testing.assert_close(exported.module()(x), expected)
    compiled = torch.compile(student, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(student)(x), expected)


def test_failure_half_way_leaves_the_model_untouched(monkeypatch):
    """The second of two sites can't be narrowed: nothing is swapped, not even in place."""

    class Odd(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.mixing = nn.Parameter(torch.eye(channels + 1))

    model = randomize(Residual())
    model.bn2 = Odd(16)
    before, modules = snapshot(model), dict(model.named_modules())
    for inplace in (False, True):
        with pytest.raises(ghostify.UnsupportedModelError, match=r"'conv2'.*mixing"):
            ghostify.convert(model, ratios={"conv2": 2}, inplace=inplace)
        assert unchanged(model, before)
        assert dict(model.named_modules()) == modules
    ghostify.convert(model, ratios={"conv2": None})  # what the message says helps
    report = ghostify.report(ghostify.convert(model, skip=()), (1, 3, 8, 8))
    assert "conv1" in {row.name for row in report.converted}
    (reason,) = [reason for reason, names in report.skipped.items() if "conv2" in names]
    assert "mixing" in reason


def test_swaps_are_made_before_anything_is_changed():
    from ghostify.conversion.plan import make_plan
    from ghostify.conversion.settings import GhostConfig
    from ghostify.graph.find_sites import find_sites

    model = randomize(Residual())
    before = snapshot(model)
    config = GhostConfig()
    make_swaps(make_plan(find_sites(model), config), config)
    assert unchanged(model, before)


def test_tracing_leaves_no_trace_in_modules_that_remember():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)
            self.next = nn.Conv2d(16, 16, 3)
            self.seen = None

        def forward(self, x):
            self.seen = self.conv(x)
            return self.next(self.seen)

    model = Remembers()
    ghostify.convert(model, skip=("first",))
    assert model.seen is None
