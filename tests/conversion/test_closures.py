"""Functions in a network that hold it: what a copy would use of the network itself is found, and nothing stays in it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ghostify
from ghostify.conversion.closures import attributes_kept


class Net(nn.Module):
    """Three convolutions; hooks and functions are put on from outside."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*(nn.Conv2d(ins, 16, 3, 1, 1) for ins in (3, 16, 16)))
        self.fc, self.spare = nn.Linear(16, 4), nn.Linear(16, 4)
        self.gain = nn.Parameter(torch.rand(16, 1, 1) + 0.5)
        self.register_buffer("shift", torch.rand(16, 1, 1))
        self.feats, self.calls = {}, 0

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

    def head(self, y):
        return self.fc(y)


class Features(Net):
    """Reads what a hook wrote."""

    def forward(self, x):
        return super().forward(x) + self.feats["map"].mean()


def hooked(model, hook):
    model.body[1].register_forward_hook(hook)
    return model.eval()


def gained():
    model = Net()
    return hooked(model, lambda module, args, output: output * model.gain)


def shifted():
    model = Net()
    return hooked(model, lambda module, args, output: output + model.shift)


def held():
    model = Net()
    gain = model.gain
    return hooked(model, lambda module, args, output: output * gain)


def tied():
    model = Net().eval()
    model.head = lambda y, layer=model.spare: F.linear(y, layer.weight)
    return model


def stored(ran):
    model = Features()
    hooked(model, lambda module, args, output: model.feats.update(map=output.detach()))
    if ran:
        model(torch.rand(2, 3, 64, 64))
    return model


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (gained(), "gain"),
        (shifted(), "shift"),
        (held(), "gain"),
        (tied(), "spare.weight"),
        (stored(ran=False), "feats"),
        (stored(ran=True), "feats"),
    ],
)
def test_functions_that_hold_the_original_are_an_error_and_fine_in_place(model, name):
    before = dict(model.feats)
    with pytest.raises(ghostify.UnsupportedModelError, match=rf"would use '{name}' of the model itself"):
        ghostify.convert(model, 2)
    assert list(model.feats) == list(before)
    assert all(model.feats[key] is before[key] for key in before)
    ghostify.convert(model, 2, inplace=True)


def test_what_only_notes_something_or_asks_for_a_shape_is_converted_and_leaves_nothing():
    model = Net()

    def note(module, args, output):
        model.feats["map"], model.calls = output, model.calls + 1
        return output.to(model.gain.dtype) * len(model.gain.shape)

    student = ghostify.convert(hooked(model, note), 2)
    assert (model.feats, model.calls, student.feats, student.calls) == ({}, 0, {}, 0)


def test_attributes_are_kept_whatever_holds_them():
    model = Net()
    inner, other = [1], object()
    model.state, model.other = {"inner": inner}, other
    with attributes_kept(model) as changes:
        inner.append(2)
        model.other, model.new = None, 3
        del model.calls
        model.shift = torch.zeros(1)
    assert (model.state, model.other, model.calls, hasattr(model, "new")) == ({"inner": [1]}, other, 0, False)
    assert model.state["inner"] is inner
    assert model.shift.shape == (16, 1, 1)
    left = {name: value for _, name, value in changes}
    assert left.keys() == {"state", "other", "calls", "new", "_buffers"}
    assert (left["state"], left["other"], left["new"]) == ({"inner": [1, 2]}, None, 3)
