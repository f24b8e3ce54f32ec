"""Which channels stay intrinsic, and which intrinsic channel each ghost is made from."""

import numpy as np
import torch
from torch import Tensor


def choose_sources(cost: Tensor, m: int, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Choose which channels stay intrinsic and the source of every other one, at little total cost.

    Greedy: the cheapest (source, ghost) pair first, as long as the source has room; each intrinsic map carries at most
    ceil((n - m) / m) ghosts, so that the depthwise kernel keeps a regular grouping.

    Args:
        cost: (n, n), ``cost[j, i]`` of making channel j from channel i; its diagonal is overwritten with infinity.
        m: number of intrinsic channels; with groups, m / groups of each.

    Returns:
        intrinsic, (m,) channel indices in increasing order; sources, (n - m,) positions in ``intrinsic``, one for each
        other channel in increasing order.
    """
    n, size = len(cost), len(cost) // groups
    cost = cost.cpu().fill_diagonal_(torch.inf)  # pairs are named one after the other: nothing for a GPU
    to_make = [(n - m) // groups] * groups  # ghosts of each group of channels, and intrinsic channels, still to be named
    to_keep = [m // groups] * groups
    room = np.full(n, -(-(n - m) // m))
    source, kept = np.full(n, -1), np.zeros(n, dtype=bool)
    takers = np.arange(n)
    barred = np.zeros(n, dtype=bool)  # can't be the source of one more ghost
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
    """The first channels of each group stay; ghosts take their sources in turn, as in the paper."""
    per_group = torch.arange(n).view(groups, -1)[:, : m // groups]
    return per_group.flatten(), torch.arange(n - m) // -(-(n - m) // m)
