"""A graph that runs a few nodes at a time."""

import torch
from torch import nn

from ghostify.graph.find_sites import trace_layers
from ghostify.graph.running import GraphRun


class ReadBefore(nn.Module):
    """Maps that are read before an activation changes them in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        maps = self.conv(x)
        lowest = maps.amin(1, keepdim=True)
        return self.act(maps) + lowest


def test_maps_are_read_as_they_were_before_a_change_in_place_whatever_runs_first():
    model, x = ReadBefore().eval(), torch.randn(2, 3, 5, 5)
    run = GraphRun(model, trace_layers(model)[0], [((x,), {})], 1 << 20)
    activation, lowest, output = (next(n for n in run.nodes if n.name == name) for name in ("act", "amin", "output"))
    list(run.run([activation], keep=[activation]))
    [[found]] = run.run([lowest], keep=[lowest])
    [[summed]] = run.run([output])
    with torch.no_grad():
        assert torch.equal(found, model.conv(x).amin(1, keepdim=True))
        assert torch.equal(summed, model(x))
    run.close()
