"""A small network with its data, and a sweep of it that has ended."""

import pytest
import torch
from helpers.networks import Residual, randomize
from helpers.sweeps import sweep_of

import ghostify


@pytest.fixture(scope="session", autouse=True)
def brief_timing():
    """Networks and their originals have two turns each on the clock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ghostify.exploration.run_trial.REPEATS", 2)
        yield


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    model = randomize(Residual(16))
    images = torch.randn(48, 3, 8, 8)
    ghostify.reestimate_norms(model, images)
    model.head.weight.data.mul_(20)
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)
    return {"model": model, "images": images[:16], "val": (images[16:], labels[16:])}


@pytest.fixture(scope="module")
def done(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep_of(parts, folder)
