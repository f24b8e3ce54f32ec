"""The choice of the channels that stay intrinsic, and of the intrinsic channel that each ghost is made from."""

import numpy as np
import torch
from torch import Tensor


def choose_sources(cost: Tensor, m: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Choose which channels stay intrinsic, and the source of every other channel, at little total cost.

    The choice is greedy: the cheapest pair of a source and a ghost comes first, as long as the source has room for one more
    ghost. Each intrinsic map carries at most ceil((n - m) / m) ghosts, so that the depthwise kernel keeps a regular grouping.

    Args:
        cost: (n, n); ``cost[j, i]`` is the cost of making channel j from channel i. The diagonal is overwritten with infinity.
        m: the number of intrinsic channels; with groups, m / groups of the channels of each group stay intrinsic.
        groups: the number of groups of the convolution.

    Returns:
        The indices (m,) of the intrinsic channels, in increasing order; and the sources (n - m,), one for each other channel in
        increasing order. A source is a position among the intrinsic channels.
    """
    n, size = len(cost), len(cost) // groups
    if bool((cost == cost[0, 0]).all()):  # as behind a norm whose scale starts at zero: any choice is as good
        return by_position(n, m, groups)
    cost = cost.cpu().fill_diagonal_(torch.inf)  # pairs are chosen one after the other, which is no work for a GPU
    to_make = [(n - m) // groups] * groups  # how many ghosts of each group are still to be chosen
    to_keep = [m // groups] * groups  # how many intrinsic channels of each group are still to be chosen
    room = np.full(n, -(-(n - m) // m))
    source, kept = np.full(n, -1), np.zeros(n, dtype=bool)
    takers = np.arange(n)
    barred = np.zeros(n, dtype=bool)  # channels that can't be the source of one more ghost
    while len(takers):
        rows = cost
        if len(takers) < n:  # nothing is barred in the first round
            rows = cost[torch.from_numpy(takers)].masked_fill_(torch.from_numpy(barred), torch.inf)
        best, where = rows.min(dim=1)
        order = best.argsort(stable=True)
        for i, j in zip(where[order].tolist(), takers[order.numpy()].tolist(), strict=True):
            if kept[j] or source[i] >= 0 or not room[i] or not to_make[j // size]:
                continue
            if not kept[i]:
                if not to_keep[i // size]:
                    continue
                to_keep[i // size] -= 1
                kept[i] = True
            to_make[j // size] -= 1
            room[i] -= 1
            source[j] = i
        is_ghost = source >= 0
        barred = is_ghost | (room == 0) | (~kept & np.repeat(np.array(to_keep) == 0, size))
        takers = (~is_ghost & ~kept & np.repeat(np.array(to_make) > 0, size)).nonzero()[0]
    intrinsic = torch.from_numpy((source < 0).nonzero()[0])
    position = torch.empty(n, dtype=torch.long)
    position[intrinsic] = torch.arange(m)
    return intrinsic, position[torch.from_numpy(source[source >= 0])]


def by_position(n: int, m: int, groups: int) -> tuple[Tensor, Tensor]:
    """Keep the first channels of each group intrinsic, and give the ghosts their sources in turn, as the paper does.

    Args:
        n: the number of output channels.
        m: the number of intrinsic channels.
        groups: the number of groups of the convolution.

    Returns:
        The intrinsic channels (m,) and the sources (n - m,), as :func:`choose_sources` gives them.
    """
    per_group = torch.arange(n).view(groups, -1)[:, : m // groups]
    return per_group.flatten(), torch.arange(n - m) // -(-(n - m) // m)
