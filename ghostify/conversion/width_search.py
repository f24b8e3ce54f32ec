"""The search for the best answer within a budget: partial answers, span by span.

On a forest a price on cost gives a lower bound of the loss: choices and partial answers that no better answer can contain are
struck out. Partial answers from which the rest costs the same are compared by cost and loss, and the most promising ones are
followed up.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .width_network import Answer, Messages, WidthNetwork

GAP = 1e-4  # relative to the loss: what no search goes on for

STATES = 1024  # partial answers that are followed up, the most promising ones

CROWD = 2  # times as many are compared with each other

CHOICES = 64  # of a span that are searched where no bound tells which ones can be left out

SAME = 1e-12  # relative difference of keys that are equal but for rounding


class WidthSearch:
    """Partial answers, span by span in the network's order.

    Args:
        network: spans, choices and pairs.
        limit: on cost.
        price: on cost, near which the answer lies.
        best: an answer that fits.
    """

    def __init__(self, network: WidthNetwork, limit: float, price: float, best: Answer):
        self.network, self.limit, self.price, self.best = network, limit, price, best
        self.messages = Messages(network, price, best.picked)
        self.hope = self._hopeful()
        self.later = np.ones(len(network.order), dtype=bool)  # spans without a choice yet
        keys = np.random.default_rng(0).uniform(1, 2, (2, len(network.order)))
        self.gives_keys, self.makes_keys = network.coupling * keys[0], (network.coupling * keys[1][:, None]).T
        held = np.where(self.hope, 0.0, np.inf)
        self.least_gives, self.least_makes = (network.gives + held).min(1), (network.makes + held).min(1)
        self.least_cost = (network.costs + held).min(1)

    def _hopeful(self) -> np.ndarray:
        """(n, K) which choices a better answer may contain."""
        marginals = self.messages.marginals() - self.price * self.limit
        if not self.network.loose:
            return marginals <= self.best.loss
        hope = marginals <= np.sort(marginals, 1)[:, :CHOICES][:, -1:]
        hope[np.arange(len(hope)), self.best.picked] = True
        return hope & np.isfinite(marginals)

    def run(self) -> Answer:
        """The best answer; the one that the search began with where there is no better."""
        network = self.network
        states = _States.empty(len(network.order), network.constant, self.messages.least())
        for v in self._order():
            self.later[v] = False
            states = self._extended(states, int(v))
            if not len(states.loss):
                return self.best
        answers = (network.answer(states.picked[row]) for row in states.loss.argsort(kind="stable"))
        best = next((one for one in answers if one.cost <= self.limit), self.best)  # sums in another order round otherwise
        return best if best.loss < self.best.loss else self.best

    def _order(self) -> Iterator[int]:
        """Connected parts with little left to decide first."""
        network = self.network
        starts = np.flatnonzero(network.parent[network.order] < 0)
        parts = np.split(network.order, starts[1:])
        for part in sorted(parts, key=lambda part: float(np.log(self.hope[part].sum(1)).sum())):
            yield from part

    def _extended(self, states: "_States", v: int) -> "_States":
        """The partial answers with each hopeful choice of ``v``; only the ones that are followed up."""
        network, limit = self.network, self.limit
        options = np.flatnonzero(self.hope[v])
        given, made = self._widths(states.picked, v)
        gives, makes = network.gives[v, options], network.makes[v, options]
        cost = states.cost[:, None] + network.costs[v, options]
        cost = cost + np.outer(given @ network.coupling[:, v], makes) + np.outer(made @ network.coupling[v], gives)
        loss = states.loss[:, None] + network.losses[v, options]
        bound = states.bound[:, None] + self._increase(states, v, options)
        if network.loose:
            bound += self._correction(given, made, v, options)
        fits = cost + self._rest(given, made, v, options) <= limit
        if not network.loose:
            fits &= bound - self.price * limit < self.best.loss - GAP * abs(self.best.loss)
        keys = self.gives_keys @ self.later, self.makes_keys @ self.later
        key = (given @ keys[0] + made @ keys[1])[:, None] + gives * keys[0][v] + makes * keys[1][v]
        chosen = _most_promising(np.flatnonzero(fits), cost.ravel(), loss.ravel(), bound.ravel(), key.ravel())
        picked = states.picked[chosen // len(options)]
        picked[:, v] = options[chosen % len(options)]
        return _States(picked, cost.ravel()[chosen], loss.ravel()[chosen], bound.ravel()[chosen])

    def _widths(self, picked: np.ndarray, v: int) -> tuple[np.ndarray, np.ndarray]:
        """(states, n) what the spans with choices before ``v`` give and make; 0 for the others."""
        rows, known = np.arange(len(self.later)), ~self.later
        known[v] = False
        return np.where(known, self.network.gives[rows, picked], 0.0), np.where(known, self.network.makes[rows, picked], 0.0)

    def _correction(self, given: np.ndarray, made: np.ndarray, v: int, options: np.ndarray) -> np.ndarray:
        """(states, choices) what the loose pairs of ``v`` cost beyond the linear terms that stood for them."""
        network, around = self.network, self.best.picked
        gives, makes = (widths[v, options] - widths[v, around[v]] for widths in (network.gives, network.makes))
        given_around, made_around = self._widths(around, v)
        forth = np.outer((given - given_around) @ network.beyond_tree[:, v], makes)
        return self.price * (forth + np.outer((made - made_around) @ network.beyond_tree[v], gives))

    def _increase(self, states: "_States", v: int, options: np.ndarray) -> np.ndarray:
        """How far the bound of each partial answer rises with each choice of ``v``."""
        parent, below = self.network.parent[v], self.messages.below[v]
        if parent < 0:
            return np.broadcast_to(below[options] - below.min(), (len(states.loss), len(options)))
        total = self.messages.pair(v)[:, options] + below[options] - self.messages.up[v, : self.network.counts[parent], None]
        return np.asarray(total[states.picked[:, parent]])

    def _rest(self, given: np.ndarray, made: np.ndarray, v: int, options: np.ndarray) -> np.ndarray:
        """(states, choices) what the spans without a choice cost at least."""
        network, later = self.network, self.later
        least_gives, least_makes = np.where(later, self.least_gives, 0.0), np.where(later, self.least_makes, 0.0)
        to, back = network.coupling @ least_makes, network.coupling.T @ least_gives
        among = self.least_cost[later].sum() + least_gives @ to
        return (
            (among + given @ to + made @ back)[:, None]
            + network.gives[v, options] * to[v]
            + network.makes[v, options] * back[v]
        )


@dataclass(frozen=True)
class _States:
    """Partial answers.

    Attributes:
        picked: (S, n) choices; 0 for spans without one yet.
        cost, loss: (S,) of the choices so far and the pairs among them.
        bound: (S,) loss and priced cost of the whole, the rest as good as can be; exact on a forest.
    """

    picked: np.ndarray
    cost: np.ndarray
    loss: np.ndarray
    bound: np.ndarray

    @classmethod
    def empty(cls, spans: int, cost: float, bound: float) -> "_States":
        return cls(np.zeros((1, spans), dtype=int), np.array([cost]), np.zeros(1), np.array([bound]))


def _most_promising(place: np.ndarray, cost: np.ndarray, loss: np.ndarray, bound: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Those of the partial answers ``place`` that are followed up.

    Left out are those that cost more than another and lose no less, where the rest costs both the same, as equal keys tell;
    of the others, all but the STATES ones of the least bounds.
    """
    if len(place) > CROWD * STATES:
        place = place[np.argpartition(bound[place], CROWD * STATES)[: CROWD * STATES]]
    place = place[np.lexsort((loss[place], cost[place]))]
    by_key = place[np.argsort(key[place], kind="stable")]
    apart = np.diff(key[by_key]) > SAME * np.abs(key[by_key[1:]])
    group = np.append(0, np.cumsum(apart)) if len(by_key) else np.zeros(0, dtype=int)
    inside = np.lexsort((loss[by_key], cost[by_key], group))
    by_key, group = by_key[inside], group[inside]
    rank = np.unique(loss[by_key], return_inverse=True)[1] - group * (len(by_key) + 1)  # falls from group to group
    before = np.minimum.accumulate(np.append(np.iinfo(rank.dtype).max, rank))[:-1]
    by_key = by_key[rank < before]
    if len(by_key) > STATES:
        by_key = by_key[np.argpartition(bound[by_key], STATES)[:STATES]]
    return by_key
