"""Every model family of timm and torchvision once: narrowed at random, it computes what it did without those maps."""

from pathlib import Path

import pytest
import torch
from helpers.families import shrink_detector
from helpers.spans import differences, shake, some
from torch.utils._pytree import tree_map_only

import ghostify
from ghostify.graph.network_spans import find_network_spans
from ghostify.inputs.examples import example_input

NAMES = Path(__file__).with_name("sample.txt").read_text().split()
QUICK = ("timm/test_resnet", "timm/regnetx_002", "torchvision/squeezenet1_1", "timm/mobilenetv3_small_050")
SIZES = (64, 96, 128, 160, 224, 1000)


def noise(model, size):
    """An input of the kind that the model takes, of this many pixels at most."""
    generator = torch.Generator().manual_seed(0)
    inputs = tree_map_only(torch.Tensor, lambda t: t[..., :size, :size], example_input(model))
    return tree_map_only(torch.Tensor, lambda t: torch.rand(t.shape, generator=generator, dtype=t.dtype), inputs)


@torch.no_grad()
def smallest(model):
    """The smallest input that the model takes."""
    for size in SIZES[:-1]:
        try:
            model(*noise(model, size))
            return noise(model, size)
        except Exception:  # a size that the model is not made for, said in many ways
            continue
    return noise(model, SIZES[-1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES])
def test_a_narrowed_model_computes_what_the_original_does_without_those_channels(name):
    torch.manual_seed(0)
    model = ghostify.create_model(name).eval()
    detector = shrink_detector(model)
    if name == "torchvision/raft_small":
        pytest.skip("it makes its grid of places in single precision, where networks are compared in double")
    model = shake(model).double()
    chosen = [some(span, seed=seed) for seed, span in enumerate(find_network_spans(model)) if not span.reason]
    if not chosen:
        pytest.skip("it has no free span")
    apart = differences(model, chosen, noise(model, 1000) if detector else smallest(model))
    if detector:  # which sorts what it has computed by scores, and rounding may change the order
        apart = {layer: difference for layer, difference in apart.items() if not layer.startswith("output")}
    assert {layer: difference for layer, difference in apart.items() if not difference < 1e-9} == {}
