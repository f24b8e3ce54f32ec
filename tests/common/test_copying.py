"""Copies of modules are those that copy.deepcopy would make."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ghostify.common.copying import copy_shared, copy_swapped, copy_to_run


class Linked(nn.Module):
    """Modules under several names, in plain lists, that know what is around them, and attributes of every kind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding="same")
        self.again = self.conv
        self.inner = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        object.__setattr__(self.inner, "around", self)
        self.plain = [self.conv, {"norm": self.inner[0]}]
        self.names = OrderedDict(first=self.inner, second=[1, 2])
        self.shape, self.dtype = (3, (4, 5)), torch.float16
        self.register_buffer("left", torch.arange(4.0)[:2])
        self.register_buffer("rest", self.left[1:], persistent=False)
        self.none = None


class Stateful(nn.Module):
    """A module that leaves something out of its copies, and makes it anew."""

    def __init__(self):
        super().__init__()
        self.conv, self.cache = nn.Conv2d(3, 3, 1), {"x": [1]}

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "cache"} | {"kept": {"y": [2]}}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.cache = {}


class CopiesItself(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def __deepcopy__(self, memo):
        return CopiesItself(copy.deepcopy(self.conv, memo))


def test_modules_stand_in_the_same_places():
    model = Linked()
    copied = copy_swapped(model, {})
    assert copied.again is copied.conv is copied.plain[0] is not model.conv
    assert copied.plain[1]["norm"] is copied.inner[0]
    assert copied.names["first"] is copied.inner
    assert copied.inner.around is copied
    assert copied.names["second"] == [1, 2]
    assert copied.names["second"] is not model.names["second"]
    assert (copied.shape, copied.dtype, copied.none) == (model.shape, model.dtype, None)
    assert copied.conv._reversed_padding_repeated_twice is not model.conv._reversed_padding_repeated_twice
    assert list(copied.state_dict()) == list(model.state_dict())


def test_buffers_that_share_memory_still_do():
    copied = copy_to_run(Linked())
    copied.left[1] = 7
    assert copied.rest[0] == 7


@pytest.mark.parametrize("make", [lambda m: copy_swapped(m, {}), copy_to_run, copy_shared])
def test_values_are_the_same(make):
    model = nn.Sequential(nn.LSTM(3, 4), parametrizations.weight_norm(nn.Linear(4, 4)), Linked(), nn.MultiheadAttention(4, 2))
    copied = make(model)
    for (name, a), (other, b) in zip(model.state_dict().items(), copied.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)
    x = torch.rand(2, 5, 3)
    assert torch.equal(copied[1](copied[0](x)[0]), model[1](model[0](x)[0]))


def test_modules_copy_themselves_in_their_own_way():
    stateful = Stateful()
    copied = copy_swapped(nn.Sequential(stateful, CopiesItself(stateful.conv)), {})
    assert copied[0].cache == {}
    assert copied[0].kept == {"y": [2]}
    assert copied[0].conv is copied[1].conv
    assert copied[0].conv is not stateful.conv


def test_hooks_go_along():
    model, seen = nn.Sequential(nn.ReLU()), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(module))
    copied = copy_to_run(model)
    copied(torch.ones(1))
    assert seen == [copied[0]]
    copied[0]._forward_hooks.clear()
    assert model[0]._forward_hooks


def test_what_a_swap_takes_out_is_not_copied():
    class Unique(nn.Linear):
        def __deepcopy__(self, memo):
            raise AssertionError

    model = nn.Sequential(nn.Sequential(Unique(2, 2)), nn.ReLU())
    assert isinstance(copy_swapped(model, {model[0]: nn.Identity()})[0], nn.Identity)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [lambda m: copy_swapped(m, {}), copy_to_run, copy_shared])
def test_parameters_of_a_scripted_part_are_leaves_of_the_copy(make):
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))), nn.Conv2d(4, 4, 1))
    model[0][1].requires_grad_(False)
    copied = make(model)
    assert all(parameter.is_leaf for parameter in copied.parameters())
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False, True, True]
