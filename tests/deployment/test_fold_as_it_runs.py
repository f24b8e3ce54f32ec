"""fold() compares with the student itself: hooks, code of the network's own, containers, types; what would differ stays."""

import copy
import pickle
import re
import types

import pytest
import torch
from helpers.folding import left, student_of
from helpers.networks import randomize
from torch import fx, nn

import ghostify
from ghostify.deployment.folded_ghost import FoldedGhost
from ghostify.deployment.network_folder import sound_items
from ghostify.layers.ghost_module import GhostModule


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.SiLU())


def chain():
    return nn.Sequential(block(3, 16), block(16, 16), block(16, 16), nn.Conv2d(16, 4, 1))


def check(student, folded, *shapes):
    for shape in shapes or ((2, 3, 16, 16), (1, 3, 20, 16)):
        x = torch.randn(shape)
        with torch.no_grad():
            wanted, given = student(x), folded(x)
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def folds(folded, kind="norm"):
    return {part.name for part in folded.folding.parts if part.kind == kind and part.reason is None}


class Tapped(nn.Module):
    """Walks over a container, and taps what some of its layers give."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*block(3, 16), *block(16, 16), *block(16, 16))
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x):
        if x.shape[-1] % 2:
            raise ValueError("odd")
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in (3, 8):  # a convolution, before its norm
                maps.append(x)
        return self.head(torch.cat(maps, 1))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = block(3, 16), block(16, 16)
        self._depth = 2

    @property
    def depth(self):
        return self._depth

    def features(self, x):
        return self.second(self.first(x))

    def forward(self, x):
        return [self.features(x)]


class AsksEncoder(nn.Module):
    """Reads a property and calls a method of a child, where no graph of torch.fx is whole."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        if x.shape[-1] > 2**self.encoder.depth:
            return self.head(self.encoder.features(x))
        return self.head(self.encoder(x)[-1])


class Optional(nn.Module):
    """Joins a tensor that it gets by keyword, if it is one."""

    def __init__(self):
        super().__init__()
        self.stem, self.side, self.up = block(3, 16), block(16, 16), nn.Conv2d(32, 16, 3, 1, 1)
        self.head = nn.Conv2d(16, 4, 1)

    def join(self, x, skip=None):
        if torch.jit.isinstance(skip, torch.Tensor):
            x = torch.cat([skip, x], 1)
        return self.up(x)

    def forward(self, pixels=None, labels=None):
        x = self.stem(pixels)
        return self.head(self.join(self.side(x), skip=x))


class PlainList(nn.Module):
    """Calls its layers by a plain list of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([*block(3, 16), *block(16, 16), nn.Conv2d(16, 4, 1)])
        self.order = list(self.layers)

    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            raise TypeError
        for layer in self.order:
            x = layer(x)
        return x


@pytest.mark.parametrize("network", [Tapped, AsksEncoder, Optional, PlainList])
def test_networks_that_torch_fx_does_not_see_through(network):
    student = student_of(network(), skip=())
    folded = ghostify.fold(student)
    check(student, folded)
    assert folds(folded) or folds(folded, "channel order")
    assert not any(isinstance(module, GhostModule) for module in folded.modules())
    assert folded.folding.verified_on.startswith("2x3x")
    for again in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        check(student, again)
    assert folded.double()(torch.randn(1, 3, 16, 16).double()).dtype == torch.float64


def test_a_network_folded_in_place_keeps_classes_properties_and_methods():
    student = student_of(AsksEncoder(), skip=())
    folded = ghostify.fold(student)
    assert type(folded) is AsksEncoder
    assert folded.encoder.depth == 2
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(folded.encoder.features(x), student.encoder.features(x), rtol=1e-4, atol=1e-4)
    ghost = folded.encoder.second[0]
    assert isinstance(ghost, FoldedGhost)
    assert (ghost.kernel_size, ghost.stride, ghost.in_channels, ghost.out_channels) == ((3, 3), (1, 1), 16, 16)


class WalksOverEncoder(nn.Module):
    """Parts of it trace; it walks over the first, asks the second for a property, and only calls the third."""

    def __init__(self):
        super().__init__()
        self.walked, self.encoder = nn.Sequential(block(3, 16), block(16, 16)), Encoder()
        self.encoder.first = block(16, 16)
        self.called, self.head = nn.Sequential(block(16, 16), block(16, 16)), nn.Conv2d(32, 4, 1)

    def forward(self, x):
        if x.shape[-1] % self.encoder.depth:
            raise ValueError
        maps = []
        for layer in self.walked:
            x = layer(x)
            maps.append(x)
        return self.head(torch.cat([self.called(self.encoder(x)[0]), maps[0]], 1))


def test_parts_that_are_only_called_become_graphs():
    student = student_of(WalksOverEncoder(), skip=())
    folded = ghostify.fold(student)
    check(student, folded)
    assert type(folded.encoder) is Encoder
    graphs = {name for name, module in folded.named_modules() if isinstance(module, fx.GraphModule)}
    assert "called" in graphs or not graphs  # all or nothing where a container that is walked over would be lost
    assert not left(folded, "norm")


def scaled(module, args, output):
    return output * 2


def normalized(module, args):
    return ((args[0] - 0.5) / 0.25,)


def masked(module, args, output):
    """Takes some channels, told by where they stand."""
    return output * torch.linspace(-1, 1, output.shape[1]).view(-1, 1, 1)


@pytest.mark.parametrize("where", ["", "1", "2", "1.0", "1.1", "1.2", "3"])
@pytest.mark.parametrize("hook", [masked, normalized])
def test_hooks_stay_and_count(where, hook):
    student = student_of(chain(), skip=())
    module = student.get_submodule(where)
    register = module.register_forward_pre_hook if hook is normalized else module.register_forward_hook
    register(hook)
    folded = ghostify.fold(student)
    check(student, folded)
    check(student, copy.deepcopy(folded))
    hooks = [h for m in folded.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert hooks == [hook]
    assert folds(folded)
    assert isinstance(folded, fx.GraphModule) == bool(where)  # torch.fx's copies would lose a hook of the root


def test_hooks_are_in_the_file(tmp_path):
    student = student_of(chain(), skip=())
    student.register_forward_pre_hook(normalized)
    student[1].register_forward_hook(masked)
    x = torch.randn(2, 3, 16, 16)
    for fold in (True, False):
        path = ghostify.export(student, tmp_path / "s.pt2", example_input=(1, 3, 16, 16), fold=fold)
        with torch.no_grad():
            torch.testing.assert_close(torch.export.load(path).module()(x), student(x), rtol=1e-3, atol=1e-4)


def test_a_hook_on_a_traced_network_survives():
    traced = fx.symbolic_trace(randomize(chain()).eval())
    traced.register_forward_hook(scaled)
    check(traced, ghostify.fold(traced))


@pytest.mark.parametrize("where", ["", "2", "2.0", "2.1"])
def test_a_forward_method_of_the_instance_counts(where):
    student = student_of(chain(), skip=())
    module = student.get_submodule(where)
    plain = type(module).forward

    def louder(self, x):
        return plain(self, x) * 3 + 1

    module.forward = types.MethodType(louder, module)
    folded = ghostify.fold(student)
    check(student, folded)
    assert folds(folded)


class ReadsNorm(nn.Module):
    """Has two norms: one that is asked for what it is, and one that is only called."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.second, self.other = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.first(x)
        if x.shape[-1] % 2 == 0 and isinstance(self.norm, nn.BatchNorm2d):
            x = self.norm(x) * 2
        return self.other(self.second(x.relu()))


def test_what_would_differ_stays_with_its_reason_and_the_rest_is_folded():
    model = randomize(ReadsNorm()).eval()
    folded = ghostify.fold(model)
    check(model, folded)
    assert "other outputs" in left(folded, "norm")["norm"]
    assert folds(folded) == {"other"}


def test_halving_finds_what_is_at_fault():
    items = [str(i) for i in range(21)]
    tries = []

    def is_sound(some):
        tries.append(some)
        return not {"3", "17"} & set(some)

    assert sound_items(items, is_sound) == [item for item in items if item not in ("3", "17")]
    assert len(tries) < 24


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = block(3, 16), block(3, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x, y):
        return self.head(self.first(x) + self.second(y))


def test_without_an_input_only_ghost_modules_are_folded():
    student = student_of(TwoInputs(), skip=())
    x, y = torch.randn(2, 2, 3, 8, 8)
    for example, words in ((None, "not verified: .*give example_input"), ((x, y), "verified on 2x3x8x8, 2x3x8x8")):
        folded = ghostify.fold(student, example)
        with torch.no_grad():
            torch.testing.assert_close(folded(x, y), student(x, y), rtol=1e-4, atol=1e-5)
        assert not any(isinstance(module, GhostModule) for module in folded.modules())
        assert isinstance(folded, fx.GraphModule) == (example is not None)
        assert re.search(words, str(folded.folding))


@pytest.mark.parametrize(("conv", "norm", "places"), [(nn.Conv1d, nn.BatchNorm1d, 1), (nn.Conv3d, nn.BatchNorm3d, 3)])
def test_joined_maps_of_one_and_three_dimensions(conv, norm, places):
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = conv(2, 16, 3, 1, 1), conv(16, 16, 3, 1, 1), conv(32, 16, 1)
            self.norm, self.pool = norm(32), (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[places - 1](2)

        def forward(self, x):
            x = self.first(x)
            joined = torch.cat([x, self.second(x).sigmoid()], 1)
            return self.pool(torch.cat([joined, self.third(self.norm(joined).relu())], 1))

    student = student_of(Dense(), skip=())
    check(student, ghostify.fold(student), (2, 2, *[6] * places), (1, 2, *[7] * places))


class Remembering(nn.Module):
    """Gives its output less a mean of those that it has seen, which it keeps in evaluation, too."""

    def __init__(self, inplace):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
        self.inplace = inplace
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x):
        x = self.body(x)
        mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        if self.inplace:
            self.mean.copy_(mean)
        else:
            self.mean = mean
        return x - self.mean[:, None, None]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_what_a_network_remembers_of_its_calls_it_remembers_folded(inplace, inside):
    model = Remembering(inplace)
    if inside:
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), model, nn.BatchNorm2d(16))
    student = ghostify.convert(model.eval(), 2, skip=("first",), example_input=torch.randn(2, 3, 16, 16))
    folded = ghostify.fold(student, torch.randn(2, 3, 16, 16))
    assert any(part.reason is None for part in folded.folding.parts)
    for seed in range(3):
        x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            torch.testing.assert_close(folded(x), student(x))
