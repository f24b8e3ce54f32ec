"""Inputs that a network runs on, where nobody says what it takes."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from ghostify.inputs.examples import running_input


def shape_for(model):
    arguments = running_input(model)
    assert arguments is not None
    (x,), kwargs = arguments
    assert kwargs == {}
    with torch.no_grad():
        model.eval()(x)
    return tuple(x.shape)


class Plain(nn.Module):
    """A convolution of any dimension, a norm, pooling, and scores."""

    def __init__(self, conv=nn.Conv2d, channels=3, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv, self.norm, self.head = conv(channels, 8, 3, padding=1), norm(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(2).mean(2))


class Wrapped(Plain):
    def forward(self, x, mask=None, *, scale=1.0):
        return super().forward(x if mask is None else x * mask) * scale


class Checked(Plain):
    def forward(self, x):
        if x.shape[2:] != (28, 28):
            raise ValueError("28 pixels a side")
        return super().forward(x)


class Pair(Plain):
    def forward(self, x, y):
        return super().forward(x) - super().forward(y)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Plain(), (2, 3, 64, 64)),
        (Plain(channels=1), (2, 1, 64, 64)),
        (Plain(nn.Conv1d, 5, nn.BatchNorm1d), (2, 5, 64)),
        (Plain(nn.Conv3d, 2, nn.BatchNorm3d), (2, 2, 32, 32, 32)),
        (Wrapped(), (2, 3, 64, 64)),
        (Checked(), (2, 3, 28, 28)),
        (nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2)), (2, 12)),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), (2, 3072)),
        (nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.Flatten(), nn.Linear(4 * 110 * 110, 2)), (2, 3, 224, 224)),
        (nn.Sequential(nn.ConvTranspose2d(16, 8, 4), nn.ReLU(), nn.Conv2d(8, 3, 3)), (2, 16, 1, 1)),
        (nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 3)), (2, 64)),
        (torchvision.models.resnet18(), (2, 3, 64, 64)),
        (timm.create_model("vit_tiny_patch16_224"), (1, 3, 224, 224)),
    ],
)
def test_the_input_of_a_network_is_found(model, shape):
    assert shape_for(model) == shape


def test_a_zoo_network_with_another_first_layer_gets_an_input_that_suits_it():
    model = torchvision.models.resnet18()
    model.conv1 = nn.Conv2d(1, 64, 3, 1, 1)
    assert shape_for(model) == (2, 1, 64, 64)


def test_what_is_given_is_taken_as_it_is():
    x = torch.zeros(1, 3, 8, 8)
    ((given,), kwargs) = running_input(Plain(), x)
    assert given is x
    assert kwargs == {}


@pytest.mark.parametrize("model", [Pair(), nn.Sequential(nn.ReLU(), nn.Unflatten(1, (2, 2))), Plain().to("meta")])
def test_there_is_none_for_two_inputs_for_what_runs_on_nothing_and_on_the_meta_device(model):
    assert running_input(model) is None


def test_the_input_has_the_type_of_the_network():
    ((x,), _) = running_input(Plain().double())
    assert x.dtype == torch.float64


class Restless(nn.Module):
    """A network that counts its calls, draws numbers, speaks, and holds itself in a closure that runs it in its own mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.count, self.step = 0, lambda x: self.norm(self.conv(x))

    def forward(self, x):
        self.calls += 1
        self.count += 1
        print("running")
        return self.step(x) + torch.rand(())


def test_a_network_is_left_as_it_was(capsys, recwarn):
    model, seen = Restless().train(), []
    model.norm.eval()
    model.conv.register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert running_input(model) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.count == 0
    assert [m.training for m in (model, model.conv, model.norm)] == [True, True, False]
    assert not capsys.readouterr().out
    assert not recwarn.list


class Hooked(nn.Module):
    """A network that gives what a hook of it has kept."""

    def __init__(self):
        super().__init__()
        self.conv, self.kept = nn.Conv2d(3, 4, 3), []
        self.conv.register_forward_hook(self.keep)

    def keep(self, module, args, output):
        self.kept.append(output)

    def forward(self, x):
        self.conv(x)
        return self.kept.pop()


def test_a_network_that_needs_its_hooks_keeps_them():
    model = Hooked()
    assert running_input(model) is not None
    assert model.kept == []
