"""Students of networks that hold a parameter or a buffer in a second way."""

import functools
import types

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ghostify
from ghostify.students.aliases import aliased

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    def __init__(self, hold=lambda net: None, read=lambda net: net.fc.weight):
        super().__init__()
        self.stem, self.body, self.fc = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)
        self.register_buffer("scale", torch.rand(5, 1) + 1)
        self.held, self.read = hold(self), read

    def forward(self, x):
        x = F.relu(self.body(F.relu(self.stem(x)))).mean((2, 3))
        return F.linear(x, self.read(self) * self.scale, self.fc.bias)


def saved(factory, file, dtype=torch.float32):
    """The answer of a student whose values are none of the factory's, on file."""
    student = ghostify.convert(factory(), ratio=2, inplace=True).to(dtype)  # functions may hold tensors of the network
    with torch.no_grad():
        for tensor in [*student.parameters(), *student.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1)
    ghostify.save(student, file)
    return student(IMAGES.to(dtype))


@pytest.mark.parametrize(
    ("hold", "read"),
    [
        (lambda net: [net.fc.weight], lambda net: net.held[0]),
        (lambda net: {"in": (net.fc.weight,)}, lambda net: net.held["in"][0]),
        (lambda net: types.SimpleNamespace(weight=net.fc.weight), lambda net: net.held.weight),
        (lambda net: functools.partial(torch.mul, net.fc.weight), lambda net: net.held(2)),
        (lambda net: [net.scale], lambda net: net.fc.weight * net.held[0]),
        (lambda net: net.scale, lambda net: net.fc.weight * net.held),
        (lambda net: [net.scale[1:2]], lambda net: net.fc.weight * net.held[0]),
    ],
)
def test_each_holder_sees_the_values_of_the_file(tmp_path, hold, read):
    file = tmp_path / "s.safetensors"
    answer = saved(lambda: Twice(hold, read), file)
    network = Twice(hold, read)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for factory in (network, lambda: Twice(hold, read)):
        loaded = ghostify.load(file, factory)
        assert torch.equal(loaded(IMAGES), answer)
        assert not loaded.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_student_of_another_type(tmp_path):
    def factory():
        return Twice(lambda net: [net.fc.weight], lambda net: net.held[0])

    answer = saved(factory, tmp_path / "s.safetensors", torch.float64)
    assert torch.equal(ghostify.load(tmp_path / "s.safetensors", factory)(IMAGES.double()), answer)


@pytest.mark.parametrize(
    ("hold", "read", "name"),
    [
        (lambda net: (lambda weight: lambda: weight)(net.fc.weight), lambda net: net.held(), "fc.weight"),
        (lambda net: [net.fc.weight, (lambda weight: lambda: weight)(net.fc.weight)], lambda net: net.held[1](), "fc.weight"),
        (lambda net: net.fc.weight.data, lambda net: net.held, "fc.weight"),
        (lambda net: [net.body.weight], lambda net: net.fc.weight * net.held[0].mean(), "body.weight"),
    ],
)
def test_what_a_value_can_not_be_put_into_is_refused(tmp_path, hold, read, name):
    def factory():
        return Twice(hold, read)

    saved(factory, tmp_path / "s.safetensors")
    with pytest.raises(ghostify.ArgumentError, match=f"also holds '{name}'"):
        ghostify.load(tmp_path / "s.safetensors", factory)


def test_a_network_without_values_is_refused(tmp_path):
    def factory():
        return Twice(lambda net: [net.fc.weight], lambda net: net.held[0])

    saved(factory, tmp_path / "s.safetensors")
    with torch.device("meta"):
        bare = factory()
    with pytest.raises(ghostify.ArgumentError, match="on the CPU"):
        ghostify.load(tmp_path / "s.safetensors", bare)


def test_scripted_parts_come_back(tmp_path):
    def factory():
        return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), torch.jit.script(nn.Conv2d(16, 4, 1)))

    answer = saved(factory, tmp_path / "s.safetensors")
    assert torch.equal(ghostify.load(tmp_path / "s.safetensors", factory)(IMAGES), answer)


def test_what_torch_keeps_in_step_is_no_alias():
    network = nn.ModuleList([nn.LSTM(4, 4), nn.utils.spectral_norm(nn.Linear(4, 4)), nn.BatchNorm2d(4)])
    network.optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network.tied = network[2].weight  # registered by torch, under a second name
    assert aliased(network) == set()
