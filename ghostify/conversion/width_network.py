"""Spans and sites whose costs are products of each other's widths, as a graph of pairs; the best answer at a price on cost.

A layer that reads one span and makes another costs a product of two numbers of channels. At a price on cost the sum of loss
and priced cost is a sum over single spans and over pairs, whose least value on a forest (chains, trees, spans that stand alone)
messages from the leaves to the roots tell exactly (min-sum: Pearl, Probabilistic Reasoning in Intelligent Systems, 1988).
Pairs that close a circle, as in a DenseNet, are taken linear around an answer, which is then improved until it stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 20  # of improvement where pairs close circles


@dataclass(frozen=True)
class Choice:
    """One thing that a span or a site may become.

    Attributes:
        cost: what does not depend on other spans, beyond the ``LayerCost`` that names it.
        loss: in any unit that adds up over spans and sites.
        gives: channels that the layers which read it get.
        makes: channels that the layers which make it compute from their inputs.
    """

    cost: float
    loss: float
    gives: float
    makes: float


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs: ``each`` x inputs x outputs.

    Attributes:
        each: cost of one output channel for one input channel.
        reads: spans that the layer reads, by their positions, each with the input features for one of its channels.
        inputs: input features besides those.
        makes: position of the span or site whose channels are the outputs; None where no choice changes them.
        outputs: number of outputs where ``makes`` is None.
    """

    each: float
    reads: tuple[tuple[int, float], ...] = ()
    inputs: float = 0.0
    makes: int | None = None
    outputs: float = 1.0


@dataclass(frozen=True)
class Answer:
    """A choice for each span and site.

    Attributes:
        picked: (n,) positions of the choices.
        cost: of all layers together.
        loss: of all spans and sites together.
    """

    picked: np.ndarray
    cost: float
    loss: float

    def priced(self, price: float) -> float:
        """Loss and priced cost together."""
        return self.loss + price * self.cost


class WidthNetwork:
    """Spans and sites with their choices, and the pairs whose costs are products.

    Spans are put into an order in which all spans of a connected part follow each other, each (but a part's first) after one
    that it makes a pair with: its parent. The other pairs, which close circles, are ``loose``.

    Attributes:
        losses, costs, gives, makes: (n, K) of each choice; rows with fewer choices end with infinite losses and costs.
        counts: (n,) choices of each.
        coupling: (n, n); the pair u, v costs ``coupling[u, v] * gives[u] * makes[v]``, and as much the other way round.
        constant: cost that no choice changes.
        order: (n,) the spans in the order described above.
        parent: (n,) the parent of each; -1 for the first of a connected part.
        loose: whether pairs close circles.
    """

    def __init__(self, choices: Sequence[Sequence[Choice]], layers: Sequence[LayerCost]):
        n, most = len(choices), max((len(options) for options in choices), default=1)
        self.counts = np.array([len(options) for options in choices], dtype=int)
        self.losses, self.costs = np.full((n, most), np.inf), np.full((n, most), np.inf)
        self.gives, self.makes = np.zeros((n, most)), np.zeros((n, most))
        for row, options in enumerate(choices):
            values = np.array([(one.loss, one.cost, one.gives, one.makes) for one in options], dtype=float).T
            self.losses[row, : len(options)], self.costs[row, : len(options)] = values[:2]
            self.gives[row, : len(options)], self.makes[row, : len(options)] = values[2:]
        self.coupling = np.zeros((n, n))
        self.constant = 0.0
        for layer in layers:
            self._add(layer)
        both = self.coupling * self.gives.max(1, initial=0)[:, None] * self.makes.max(1, initial=0)
        self.order, self.parent = _forest(both + both.T)
        self.tree = np.zeros_like(self.coupling)
        child = np.flatnonzero(self.parent >= 0)
        for one, other in ((child, self.parent[child]), (self.parent[child], child)):
            self.tree[one, other] = self.coupling[one, other]
        self.beyond_tree = self.coupling - self.tree
        self.loose = bool(self.beyond_tree.any())

    def _add(self, layer: LayerCost) -> None:
        """Add the cost of a layer: to pairs, to the costs of single spans, or to the constant."""
        if layer.makes is None:
            self.constant += layer.each * layer.inputs * layer.outputs
            for span, width in layer.reads:
                self.costs[span] += layer.each * layer.outputs * width * self.gives[span]
            return
        self.costs[layer.makes] += layer.each * layer.inputs * self.makes[layer.makes]
        for span, width in layer.reads:
            if span == layer.makes:
                self.costs[span] += layer.each * width * self.gives[span] * self.makes[span]
            else:
                self.coupling[span, layer.makes] += layer.each * width

    def answer(self, picked: np.ndarray) -> Answer:
        """The answer with these choices."""
        rows = np.arange(len(picked))
        gives, makes = self.gives[rows, picked], self.makes[rows, picked]
        cost = self.constant + self.costs[rows, picked].sum() + gives @ self.coupling @ makes
        return Answer(picked, float(cost), float(self.losses[rows, picked].sum()))

    def least_loss(self) -> Answer:
        """Each span's choice of least loss; the cheapest of equally good ones."""
        ties = self.losses <= self.losses.min(1, keepdims=True)
        return self.answer(np.where(ties, self.costs, np.inf).argmin(1))

    def cheapest(self) -> Answer:
        """The answer of least cost."""
        start = self.answer(self.costs.argmin(1))
        return self.best_at(np.inf, [start])

    def best_at(self, price: float, starts: Sequence[Answer]) -> Answer:
        """The answer whose loss and priced cost together are least: exactly on a forest, else by improving the starts."""
        best = min((self._improved(price, start) for start in starts), key=lambda one: _value(one, price))
        return min([best, *starts], key=lambda one: _value(one, price)) if self.loose else best

    def _improved(self, price: float, start: Answer) -> Answer:
        best = start
        for _ in range(ROUNDS if self.loose else 1):
            made = self.answer(Messages(self, price, best.picked).decode())
            if not self.loose:
                return made
            made = self._descended(price, made)
            if _value(made, price) >= _value(best, price):
                break
            best = made
        return best

    def _descended(self, price: float, start: Answer) -> Answer:
        """One span after the other takes its best choice, all others as they are, until none changes."""
        picked = start.picked.copy()
        for _ in range(ROUNDS):
            before = picked.copy()
            for v in self.order:
                picked[v] = self.singles(price, picked, self.coupling, [int(v)])[0].argmin()
            if (picked == before).all():
                break
        return self.answer(picked)

    def singles(self, price: float, around: np.ndarray, coupling: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """(n, K) loss and priced cost of each choice, with the costs of some pairs taken with the others' choices ``around``.

        An infinite price stands for cost alone.
        """
        every = np.arange(len(around))
        these = every if rows is None else np.asarray(rows)
        gives, makes = self.gives[every, around], self.makes[every, around]
        cost = self.costs[these] + (gives @ coupling[:, these])[:, None] * self.makes[these]
        cost += (coupling[these] @ makes)[:, None] * self.gives[these]
        return cost if np.isinf(price) else self.losses[these] + price * cost


class Messages:
    """What each subtree of the forest comes to at a price, for each choice of its parent.

    Attributes:
        singles: (n, K) loss and priced cost of each choice, loose pairs taken linear around an answer.
        below: (n, K) the least of a span's subtree, for each of its own choices.
        up: (n, K) the least of a span's subtree and the pair with its parent, for each choice of the parent.
    """

    def __init__(self, network: WidthNetwork, price: float, around: np.ndarray):
        self.network, self.price, self.around = network, price, around
        self.singles = network.singles(price, around, network.beyond_tree)
        self.below, self.up = self.singles.copy(), np.zeros_like(self.singles)
        for v in network.order[::-1]:
            parent = network.parent[v]
            if parent >= 0:
                least = (self.pair(v) + self.below[v, : network.counts[v]]).min(1)
                self.up[v, : len(least)] = least
                self.below[parent, : len(least)] += least

    def pair(self, v: int) -> np.ndarray:
        """(choices of the parent, choices of ``v``) the priced cost of their pair."""
        network, parent = self.network, self.network.parent[v]
        here, there = slice(network.counts[v]), slice(network.counts[parent])
        scale = 1.0 if np.isinf(self.price) else self.price
        forth, back = scale * network.coupling[parent, v], scale * network.coupling[v, parent]
        pair = np.outer(network.gives[parent, there], forth * network.makes[v, here])
        return pair + np.outer(network.makes[parent, there], back * network.gives[v, here]) if back else pair

    def decode(self) -> np.ndarray:
        """The choices of the least value, from the roots to the leaves."""
        network = self.network
        picked = np.zeros(len(network.order), dtype=int)
        for v in network.order:
            total = self.below[v, : network.counts[v]]
            if network.parent[v] >= 0:
                total = total + self.pair(v)[picked[network.parent[v]]]
            picked[v] = total.argmin()
        return picked

    def least(self) -> float:
        """The least loss and priced cost of an answer, the constant cost included; exact where no pair is loose."""
        return float(self.below[self.network.parent < 0].min(1).sum() + self.price * self.network.constant)

    def marginals(self) -> np.ndarray:
        """(n, K) the :meth:`least` of an answer that contains each choice; exact where no pair is loose."""
        network = self.network
        everything = self.least()
        least = np.full_like(self.below, np.inf)
        down = np.zeros_like(self.below)  # what lies above each span, for each of its choices
        for v in network.order:
            parent, here = network.parent[v], slice(network.counts[v])
            if parent >= 0:
                there = slice(network.counts[parent])
                rest = self.below[parent, there] + down[parent, there] - self.up[v, there]
                down[v, here] = (rest[:, None] + self.pair(v)).min(0)
            own = self.below[v, here] + down[v, here]
            least[v, here] = own - own.min() + everything
        return least


def _value(answer: Answer, price: float) -> float:
    return answer.cost if np.isinf(price) else answer.priced(price)


def _forest(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of a walk into the depth through each connected part, and the strongest earlier partner of each."""
    n = len(strength)
    order: list[int] = []
    parent = np.full(n, -1)
    seen = np.zeros(n, dtype=bool)
    for root in range(n):
        stack = [root]
        while stack:
            v = stack.pop()
            if seen[v]:
                continue
            if order and (earlier := np.where(seen, strength[v], 0.0)).any():
                parent[v] = earlier.argmax()
            seen[v] = True
            order.append(v)
            stack += [int(u) for u in np.flatnonzero(strength[v])[::-1] if not seen[u]]
    return np.array(order, dtype=int), parent
