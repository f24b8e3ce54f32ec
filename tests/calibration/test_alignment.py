"""Layers that are added keep the same channels."""

import torch

from ghostify.calibration.alignment import LayerMaps, Partition


def test_layers_that_are_added_choose_together():
    """Of two pairings, each best for one layer, the one whose errors add up to less; a layer of another width has no say."""
    costs = []
    for near, far in ((1.0, 4.0), (9.0, 2.0)):  # of making channel 1 from 0 and 3 from 2; of making 2 from 0 and 3 from 1
        cost = torch.full((4, 4), 100.0)
        cost[1, 0] = cost[3, 2] = near
        cost[2, 0] = cost[3, 1] = far
        costs.append(cost)
    partition = Partition(layers=[*(LayerMaps(2, "depthwise", cost) for cost in costs), LayerMaps(3, "depthwise", costs[0])])
    partition.choose()
    assert partition.intrinsic.tolist() == [0, 1]
    assert partition.sources.tolist() == [0, 1]
    assert partition.binds(2)
    assert not partition.binds(3)
    alone = Partition(layers=[LayerMaps(2, "depthwise", costs[0])])
    alone.choose()
    assert alone.intrinsic.tolist() == [0, 2]
    empty = Partition()
    empty.choose()
    assert not empty.binds(2)
