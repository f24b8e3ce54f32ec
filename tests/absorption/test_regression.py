"""Streamed regression against least squares on the whole problem."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostify.absorption.regression import Moments


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_streamed_ridge_is_lstsq_on_the_whole_problem(groups, features, targets, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 200, features, generator=generator, dtype=torch.float64) + 3
    y = torch.randn(groups, 200, targets, generator=generator, dtype=torch.float64)
    prior = torch.randn(groups, features, targets, generator=generator, dtype=torch.float64)
    system = Moments.zeros(groups, features, targets, x.device)
    for batch in range(5):
        part = slice(40 * batch, 40 * batch + 40)
        system.add(x[:, part], y[:, part])
    ridge = 0.01
    solved = system.solve(ridge, prior)
    centred_x, centred_y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    strength = ridge * centred_x.square().mean((1, 2))
    pull = (200 * strength).sqrt()[:, None, None] * torch.eye(features, dtype=torch.float64)
    wanted = torch.linalg.lstsq(torch.cat([centred_x, pull], 1), torch.cat([centred_y, pull @ prior], 1)).solution
    torch.testing.assert_close(solved, wanted, rtol=1e-8, atol=1e-9)


def test_ridge_survives_constant_features():
    x = torch.ones(1, 50, 4)
    system = Moments.zeros(1, 4, 2, x.device)
    system.add(x, torch.randn(1, 50, 2))
    assert torch.isfinite(system.solve(1e-3)).all()
