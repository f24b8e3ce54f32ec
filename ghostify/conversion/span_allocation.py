"""Share a budget out where costs are products of kept widths: the least loss in all for a total cost within a limit.

A price on cost gives a first answer and, where no pairs of spans close circles, a lower bound of the loss. Unless the two are
as good as equal, partial answers are searched span by span, and single choices and pairs of choices are exchanged while that
helps.
"""

from collections.abc import Sequence

from .exchange import exchanged
from .width_network import Answer, Choice, LayerCost, Messages, WidthNetwork
from .width_search import GAP, WidthSearch

PRICES = 60  # at most so many are tried

SEARCHES = 3  # at most, each with what the best answer so far strikes out


def allocate_spans(choices: Sequence[Sequence[Choice]], layers: Sequence[LayerCost], limit: float) -> list[int] | None:
    """One choice for each span and site such that all cost at most ``limit`` and losses add up to as little as can be.

    Networks so small that all promising partial answers can be followed up get the best of all answers. Larger ones get one
    that no other choice of one or two spans makes better.

    Args:
        choices: of each span and site, at least one.
        layers: what costs; spans and sites are named by their positions in ``choices``.
        limit: on the cost of all layers and choices together.

    Returns:
        The positions of the choices; None where even the cheapest ones cost more.
    """
    best = best_answer(WidthNetwork(choices, layers), limit)
    return None if best is None else best.picked.tolist()


def best_answer(network: WidthNetwork, limit: float) -> Answer | None:
    """The answer of :func:`allocate_spans`, with what it costs and loses."""
    dear, cheap = network.least_loss(), network.cheapest()
    if dear.cost <= limit:
        return dear
    if cheap.cost > limit:
        return None
    price, best = _priced(network, limit, dear, cheap)
    if price == 0 or best.loss - _bound(network, limit, price, best) <= GAP * best.loss:
        return best
    best = exchanged(network, limit, best)
    for _ in range(SEARCHES):
        before = best
        best = exchanged(network, limit, WidthSearch(network, limit, price, best).run())
        if best.loss >= before.loss:
            break
    return best


def _priced(network: WidthNetwork, limit: float, dear: Answer, cheap: Answer) -> tuple[float, Answer]:
    """The price at which answers on both sides of the limit are equally good, and the one that fits."""
    price = 0.0
    for _ in range(PRICES):
        if dear.loss >= cheap.loss:
            break
        price = (cheap.loss - dear.loss) / (dear.cost - cheap.cost)
        middle = network.best_at(price, [dear, cheap])
        level = cheap.priced(price)
        if middle.priced(price) >= level - 1e-12 * abs(level):
            break
        if middle.cost > limit:
            dear = middle
        else:
            cheap = middle
    return price, cheap


def _bound(network: WidthNetwork, limit: float, price: float, around: Answer) -> float:
    """What no answer within the limit loses less than; minus infinity where pairs close circles."""
    return float("-inf") if network.loose else Messages(network, price, around.picked).least() - price * limit
