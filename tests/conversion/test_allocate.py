"""The multiple-choice knapsack against brute force and an integer program."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from ghostify.conversion.allocate import Option, allocate


def cost_of(picked):
    return sum(option.cost for option in picked)


def loss_of(picked):
    return sum(option.loss for option in picked)


options = st.lists(st.builds(Option, st.just(1), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(choices=st.lists(options, min_size=1, max_size=5), budget=st.integers(0, 200))
def test_the_best_of_all_combinations(choices, budget):
    fitting = [picked for picked in itertools.product(*choices) if cost_of(picked) <= budget]
    found = allocate(choices, budget)
    if not fitting:
        assert found is None
        return
    assert len(found) == len(choices)
    assert all(option in options for option, options in zip(found, choices, strict=True))
    assert cost_of(found) <= budget
    assert loss_of(found) == pytest.approx(min(map(loss_of, fitting)), rel=1e-3)


def random_choices(generator, sites, ratios):
    """Sites of very different sizes and sensitivities, whose losses grow faster and faster or at random."""
    choices = []
    for _ in range(sites):
        full, bears = generator.lognormal(0, 1) * 1e7, generator.lognormal(0, 2)
        shares = np.linspace(0.25, 1, ratios)
        losses = bears * (1 / shares - 1) ** 1.5 if generator.random() < 0.5 else bears * generator.random(ratios)
        choices.append([Option(k, full * share, loss) for k, (share, loss) in enumerate(zip(shares, losses, strict=True))])
    return choices


def least_loss(choices, budget):
    """By an integer program, to the optimum."""
    flat = [option for options in choices for option in options]
    owner = np.repeat(np.arange(len(choices)), [len(options) for options in choices])
    costs, losses = (np.array([getattr(option, name) for option in flat]) for name in ("cost", "loss"))
    one_each = LinearConstraint((owner == np.arange(len(choices))[:, None]).astype(float), 1, 1)
    within = LinearConstraint((costs / costs.max())[None], -np.inf, budget / costs.max())
    found = milp(
        losses / losses.max(), constraints=[one_each, within], integrality=np.ones(len(flat)), bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )  # fmt: skip
    return float(losses @ found.x.round())


@pytest.mark.parametrize("seed", range(40))
def test_as_good_as_an_integer_program(seed):
    generator = np.random.default_rng(seed)
    choices = random_choices(generator, generator.integers(2, 40), generator.integers(2, 9))
    least, most = (sum(pick(option.cost for option in options) for options in choices) for pick in (min, max))
    budget = least + (most - least) * generator.uniform(0.02, 0.98)
    found = allocate(choices, budget)
    assert cost_of(found) <= budget
    assert loss_of(found) <= least_loss(choices, budget) * 1.005 + 1e-9


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.8])
def test_large_networks_use_their_budget_up(budget):
    choices = random_choices(np.random.default_rng(1), 300, 25)
    limit = budget * sum(options[-1].cost for options in choices)
    found = allocate(choices, limit)
    assert 0.99 * limit < cost_of(found) <= limit


def test_a_budget_for_everything_loses_nothing():
    choices = [[Option(1, 1, 5), Option(0, 3, 0)]] * 4
    assert loss_of(allocate(choices, 12)) == 0


def test_exactly_the_least_is_feasible_and_less_is_not():
    choices = [[Option(1, 2, 5), Option(0, 3, 0)], [Option(1, 4, 1)]]
    assert cost_of(allocate(choices, 6)) == 6
    assert allocate(choices, 5.99) is None


def test_no_site_is_no_trouble():
    assert allocate([], 1.0) == []
