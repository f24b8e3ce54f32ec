"""Instances of the allocation, and an integer program that solves them to the optimum, to judge ghostify's allocation by."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ghostify.conversion.allocate import Option


def random_instance(generator: np.random.Generator, sites: int, ratios: int) -> list[list[Option]]:
    """Sites of very different sizes and sensitivities, whose losses grow faster and faster or at random."""
    instance = []
    for _ in range(sites):
        full_cost, sensitivity = generator.lognormal(0, 1) * 1e7, generator.lognormal(0, 2)
        shares = np.linspace(0.25, 1, ratios)
        growing = generator.random() < 0.5
        losses = sensitivity * (1 / shares - 1) ** 1.5 if growing else sensitivity * generator.random(ratios)
        pairs = zip(shares, losses, strict=True)
        instance.append([Option(number, full_cost * share, loss) for number, (share, loss) in enumerate(pairs)])
    return instance


def least_loss(instance: Sequence[Sequence[Option]], budget: float) -> float:
    """The least sum of losses of one option for each site whose costs fit the budget, by an integer program."""
    options = [option for site in instance for option in site]
    site_of_option = np.repeat(np.arange(len(instance)), [len(site) for site in instance])
    costs, losses = (np.array([getattr(option, name) for option in options]) for name in ("cost", "loss"))
    one_for_each_site = LinearConstraint((site_of_option == np.arange(len(instance))[:, None]).astype(float), 1, 1)
    within_budget = LinearConstraint((costs / costs.max())[None], -np.inf, budget / costs.max())
    solution = milp(
        losses / losses.max(),
        constraints=[one_for_each_site, within_budget],
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    return float(losses @ solution.x.round())
