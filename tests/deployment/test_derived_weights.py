"""Weights that a network makes of others at each call are baked in as they would be at the next call."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

import ghostify
from ghostify.deployment.inference_copy import inference_copy


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight + weight.transpose(-1, -2)


def pruned_twice(conv):
    prune.ln_structured(prune.l1_unstructured(conv, "weight", 0.5), "weight", 0.3, 2, 0)
    return prune.random_unstructured(conv, "bias", 0.3)


KINDS = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "pruned": pruned_twice,
    "weight_norm of parametrizations": parametrizations.weight_norm,
    "spectral_norm of parametrizations": parametrizations.spectral_norm,
    "own parametrization": lambda conv: register_parametrization(conv, "weight", Symmetric()) and conv,
}


def network(wrap):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), wrap(nn.Conv2d(8, 8, 3)), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)]
    model = nn.Sequential(*layers).eval()
    model(torch.randn(2, 3, 12, 12))  # with gradients on: a weight that a hook leaves behind has a graph
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_came_in_counts(kind):
    model = network(KINDS[kind])
    state = {
        key: torch.randn_like(value) if key.startswith("3.") and "mask" not in key and value.is_floating_point() else value
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)  # and no forward pass since then
    keys, kept = list(model.state_dict()), type(model[3])
    folded = ghostify.fold(model)
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == keys
    assert type(model[3]) is kept
    assert not [part for part in folded.folding.parts if part.reason]  # the norm after it is folded, too
    assert not [key for key in folded.state_dict() if not key.endswith(("weight", "bias"))]
    for again in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert torch.equal(again(x), folded(x))


def test_export_bakes_in_masks_and_norms(tmp_path):
    model = network(lambda conv: prune.l1_unstructured(weight_norm(conv), "weight_v", 0.5) and conv)
    with torch.no_grad():
        model[3].weight_g.mul_(3)
    path = ghostify.export(model, tmp_path / "m.pt2", example_input=(1, 3, 12, 12), fold=False)
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(path).module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_recurrent_layer_and_hooks_that_are_not_of_weights_stay():
    layer = weight_norm(nn.LSTM(4, 4), "weight_hh_l0").eval()
    calls = []
    layer.register_forward_pre_hook(lambda module, args: calls.append(len(args)))
    copied = inference_copy(layer)
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(copied(x)[0], layer(x)[0])
    assert calls == [1, 1]
    assert "weight_hh_l0" in dict(copied.named_parameters())
