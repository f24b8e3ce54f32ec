"""Budgets where costs are products of kept widths, against full enumeration."""

import numpy as np
import pytest

from ghostify.conversion.span_allocation import allocate_spans, best_answer
from ghostify.conversion.width_network import Choice, LayerCost, WidthNetwork
from tests.helpers.budgets import SHAPES, all_answers, cost_of, loss_of, random_network

SHARES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # of the way from the least to the full cost


def check_against_enumeration(choices, layers):
    costs, losses = all_answers(choices, layers)
    for share in SHARES:
        limit = costs.min() + share * (costs.max() - costs.min())
        picked = allocate_spans(choices, layers, limit)
        assert cost_of(choices, layers, picked) <= limit * (1 + 1e-12)
        assert loss_of(choices, picked) <= losses[costs <= limit].min() * 1.0002 + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_all_combinations(shape, seed):
    check_against_enumeration(*random_network(np.random.default_rng(seed), shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(8))
def test_choices_that_make_fewer_channels_than_they_give(shape, seed):
    check_against_enumeration(*random_network(np.random.default_rng(100 + seed), shape, ghosts=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_answer_below_the_least_cost_and_the_only_one_at_it(shape):
    choices, layers = random_network(np.random.default_rng(7), shape, spans=4)
    least = all_answers(choices, layers)[0].min()
    assert allocate_spans(choices, layers, least * (1 - 1e-9)) is None
    assert cost_of(choices, layers, allocate_spans(choices, layers, least)) == pytest.approx(least, rel=1e-12)


def test_a_budget_for_everything_loses_nothing():
    choices, layers = random_network(np.random.default_rng(3), "concatenations")
    most = all_answers(choices, layers)[0].max()
    assert loss_of(choices, allocate_spans(choices, layers, most)) == 0


def test_a_layer_that_reads_and_makes_the_same_span_costs_the_square():
    widths = [Choice(0.0, 10.0 - m, float(m), float(m)) for m in range(1, 11)]
    assert allocate_spans([widths], [LayerCost(1.0, ((0, 1.0),), makes=0)], 50) == [6]  # 7 x 7 = 49


def test_a_layer_that_no_choice_changes_counts():
    widths = [Choice(0.0, 10.0 - m, float(m), float(m)) for m in range(1, 11)]
    layers = [LayerCost(1.0, (), 5.0, 0), LayerCost(2.0, (), 5.0, None, 3.0)]
    assert allocate_spans([widths], layers, 30 + 5 * 4) == [3]


@pytest.mark.parametrize("shape", SHAPES)
def test_more_budget_never_loses_more(shape):
    choices, layers = random_network(np.random.default_rng(11), shape, spans=12, most=12)
    network = WidthNetwork(choices, layers)
    least, most = network.cheapest().cost, network.least_loss().cost
    losses = [best_answer(network, least + share * (most - least)).loss for share in np.linspace(0.02, 0.98, 25)]
    assert (np.diff(losses) <= 0.002 * np.array(losses[:-1])).all()
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_answer_each_time(shape):
    choices, layers = random_network(np.random.default_rng(5), shape, spans=20, most=16)
    limit = 0.4 * WidthNetwork(choices, layers).least_loss().cost
    assert allocate_spans(choices, layers, limit) == allocate_spans(choices, layers, limit)


@pytest.mark.parametrize("shape", ["chain", "tree", "independent", "gates"])
def test_large_networks_use_their_budget_up_and_come_near_their_bound(shape):
    choices, layers = random_network(np.random.default_rng(2), shape, spans=60, most=32)
    network = WidthNetwork(choices, layers)
    dear, cheap = network.least_loss(), network.cheapest()
    limit = 0.5 * dear.cost
    best = best_answer(network, limit)
    prices = np.geomspace(1e-4, 1e2, 100) * cheap.loss / dear.cost
    bound = max(network.best_at(price, [cheap]).priced(price) - price * limit for price in prices)
    assert 0.998 * limit < best.cost <= limit
    assert bound <= best.loss <= 1.04 * bound
