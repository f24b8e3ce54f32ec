"""Improve an answer within a budget by exchanging the choices of one or two spans at a time."""

import numpy as np

from .width_network import Answer, WidthNetwork

LEAST_GAIN = 1e-9  # relative to the loss


def exchanged(network: WidthNetwork, limit: float, start: Answer) -> Answer:
    """The answer after the best exchange of each span in turn, alone or with one other, until none helps."""
    exchange, quiet = _Exchange(network, limit, start), 0
    while quiet < len(network.order):
        for v in network.order:
            made = exchange.best(int(v))
            quiet = quiet + 1 if made is None else 0
            exchange = exchange if made is None else _Exchange(network, limit, made)
    return exchange.answer


class _Exchange:
    """What other choices of one span, and of one more, change in cost and loss.

    Attributes:
        answer: whose choices are exchanged.
        cost, loss: (n, K) how much more each choice costs and loses than the present one, all others as they are.
        room: how much more all may cost.
        places: (M,) all choices, the cheapest first, as positions in ``cost``.
    """

    def __init__(self, network: WidthNetwork, limit: float, answer: Answer):
        self.network, self.limit, self.answer = network, limit, answer
        rows, picked = np.arange(len(network.order)), answer.picked
        cost, loss = network.singles(np.inf, picked, network.coupling), network.losses
        self.cost, self.loss = cost - cost[rows, picked][:, None], loss - loss[rows, picked][:, None]
        self.room = limit - answer.cost
        places = np.flatnonzero(np.isfinite(self.cost))
        self.places = places[np.argsort(self.cost.ravel()[places], kind="stable")]

    def best(self, v: int) -> Answer | None:
        """The best answer with another choice of ``v`` within the limit; None where the present one is as good."""
        network, picked = self.network, self.answer.picked
        partners = np.flatnonzero((network.coupling[v] > 0) | (network.coupling[:, v] > 0))
        gain, option, other, choice = self._with_stranger(v, partners)
        for partner in partners:
            result = self._with_partner(v, int(partner))
            if result[0] < gain:
                gain, option, other, choice = result
        if gain >= -LEAST_GAIN * abs(self.answer.loss):
            return None
        changed = picked.copy()
        changed[v], changed[other] = option, choice
        made = network.answer(changed)
        return made if made.cost <= self.limit and made.loss < self.answer.loss else None

    def _with_stranger(self, v: int, partners: np.ndarray) -> tuple[float, int, int, int]:
        """The least change of loss together with a span that makes no pair with ``v``, or with ``v`` as it is now."""
        width = self.cost.shape[1]
        strangers = np.ones(len(self.cost), dtype=bool)
        strangers[partners] = strangers[v] = False
        places = self.places[strangers[self.places // width]]
        places = np.append(places, v * width + self.answer.picked[v])  # nothing else changes
        places = places[np.argsort(self.cost.ravel()[places], kind="stable")]
        costs, losses = self.cost.ravel()[places], self.loss.ravel()[places]
        least = np.minimum.accumulate(losses)
        options = slice(self.network.counts[v])
        fits = np.searchsorted(costs, self.room - self.cost[v, options], side="right") - 1
        total = np.where(fits >= 0, self.loss[v, options] + least[np.maximum(fits, 0)], np.inf)
        option = int(total.argmin())
        if not np.isfinite(total[option]):
            return np.inf, 0, 0, 0
        other, choice = divmod(int(places[losses[: fits[option] + 1].argmin()]), width)
        return float(total[option]), option, other, option if other == v else choice

    def _with_partner(self, v: int, other: int) -> tuple[float, int, int, int]:
        """The least change of loss together with a span that makes a pair with ``v``."""
        network, picked = self.network, self.answer.picked
        options, choices = np.arange(network.counts[v]), np.arange(network.counts[other])
        gives = [network.gives[u, some] - network.gives[u, picked[u]] for u, some in ((v, options), (other, choices))]
        makes = [network.makes[u, some] - network.makes[u, picked[u]] for u, some in ((v, options), (other, choices))]
        cost = self.cost[v, options][:, None] + self.cost[other, choices]
        cost += network.coupling[v, other] * np.outer(gives[0], makes[1])
        cost += network.coupling[other, v] * np.outer(makes[0], gives[1])
        loss = self.loss[v, options][:, None] + self.loss[other, choices]
        loss[cost > self.room] = np.inf
        option, choice = divmod(int(loss.argmin()), len(choices))
        return float(loss[option, choice]), option, other, choice
