"""Every model family of timm and torchvision once, its smallest member: run, trained a step, reloaded.

sample.txt comes from ``python -m benchmarks.zoo --sample tests/zoo/sample.txt``.
"""

import copy
from pathlib import Path

import pytest
import torch
from helpers.families import shrink_detector
from torch.utils._pytree import tree_leaves, tree_map_only

import ghostify
from ghostify import GhostModule
from ghostify.inputs.examples import example_input

NAMES = Path(__file__).with_name("sample.txt").read_text().split()
QUICK = ("timm/test_resnet", "timm/test_mambaout", "torchvision/squeezenet1_1")


def run(model, inputs):
    return [t for t in tree_leaves(model(*inputs)) if isinstance(t, torch.Tensor)]


def noise(inputs, batch):
    generator = torch.Generator().manual_seed(0)
    return tree_map_only(torch.Tensor, lambda t: torch.rand(batch, *t.shape[1:], generator=generator), inputs)


def smallest(model, inputs):
    """Inputs of 128 pixels where the original takes them, which saves most of the time; else the usual ones."""
    small = tree_map_only(torch.Tensor, lambda t: t[..., :128, :128] if t.shape[-1] > 128 else t, inputs)
    try:
        with torch.no_grad():
            model(*small)
            copy.deepcopy(model).train()(*noise(small, 2))  # heads that only training uses may need more
    except Exception:  # a size that the model is not made for, said in many ways
        return inputs
    return small


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES])
def test_family(name):
    torch.manual_seed(0)
    model = ghostify.create_model(name).eval()
    detector = shrink_detector(model)
    student = ghostify.convert(model)
    inputs = example_input(model)
    if not detector:
        inputs = noise(smallest(model, inputs), 1)
        with torch.no_grad():
            outputs = run(student, inputs)
            assert [t.shape for t in outputs] == [t.shape for t in run(model, inputs)]
    else:
        with torch.no_grad():
            assert [sorted(d) for d in student(*inputs)] == [sorted(d) for d in model(*inputs)]

    fresh = ghostify.convert(ghostify.create_model(name), init="random").eval()
    fresh.load_state_dict(student.state_dict())
    if not detector:
        with torch.no_grad():
            for a, b in zip(run(fresh, inputs), outputs, strict=True):
                torch.testing.assert_close(a, b)

    student.train()
    if detector:
        target = {"boxes": torch.tensor([[20.0, 20.0, 120.0, 120.0]]), "labels": torch.tensor([1])}
        target["masks"] = torch.ones(1, 320, 320, dtype=torch.uint8)
        target["keypoints"] = torch.ones(1, 17, 3)
        loss = sum(student([torch.rand(3, 320, 320), torch.rand(3, 320, 320)], [target, target]).values())
    else:
        loss = sum(t.float().square().mean() for t in run(student, noise(inputs, 2)) if t.is_floating_point())
    loss.backward()
    ghosts = [m for m in student.modules() if isinstance(m, GhostModule)]
    trained = [m for m in ghosts if m.primary_conv[0].weight.grad is not None]
    assert len(trained) >= len(ghosts) / 2  # heads that this loss or mode does not use have none
    assert all(torch.isfinite(m.primary_conv[0].weight.grad).all() for m in trained)
