"""A clock that goes by FLOPs, and a cache of times that is the test's own."""

import pytest
import torch

from ghostify.common.costs import measure
from ghostify.conversion.runtime_timer import Beside, RuntimeTimer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def clock(monkeypatch):
    """A runtime that takes a nanosecond for each multiply-add, and 20 microseconds; students gain less than their layers.

    Gives the names of the layers that were timed, and "student" for each student.
    """
    asked = []

    def seconds(model, x):
        return 2e-5 + 1e-9 * measure(model, (x,)).flops

    def layers(self, site, x):
        asked.append(site.name)
        return 1e-9 * measure(torch.nn.Sequential(site.module), (x,)).flops

    def beside(self, original, student, x):
        asked.append("student")
        one, other = seconds(original, x), seconds(student, x)
        other = one - 0.8 * (one - other)
        return Beside(one, other, other / one, other / one, other / one)

    monkeypatch.setattr(RuntimeTimer, "whole", lambda self, model, x: seconds(model, x))
    monkeypatch.setattr(RuntimeTimer, "layers", layers)
    monkeypatch.setattr(RuntimeTimer, "beside", beside)
    return asked
