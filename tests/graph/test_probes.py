"""The calls of a network by which its graphs are checked."""

import torch
from torch import nn

from ghostify.graph.probes import Probes


def test_nothing_stays_on_a_network_that_was_listened_to():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    probes = Probes(network, [((torch.rand(2, 3, 4, 4),), {})])
    assert len(probes.calls(0, "", ["", "0"])) == len(probes.calls(0, "0")) == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
