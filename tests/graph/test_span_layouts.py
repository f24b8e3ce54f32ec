"""Which spans the channels of each value of a graph are."""

import torch
from torch import fx, nn

from ghostify.graph.span_reader import span_layouts
from ghostify.graph.spans import ChannelLayout


class Net(nn.Module):
    """Two layers joined, added to a third run by run, moved, and flattened."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.head = nn.Linear(14 * 4, 7)

    def forward(self, x):
        joined = torch.cat([self.a(x), self.b(x) + self.c(x)], 1)
        return joined.permute(0, 2, 3, 1), self.head(joined.flatten(1)), joined.softmax(1)


def test_each_value_has_the_runs_of_its_spans_and_where_its_channels_stand():
    model = Net()
    graph = fx.Tracer().trace(model)
    spans, layouts = span_layouts(graph, dict(model.named_modules()), set())
    by_name = {node.name: layout for node, layout in layouts.items()}
    a, b, head = (next(i for i, span in enumerate(spans) if name in span.makers) for name in ("a", "b", "head"))
    assert set(spans[b].makers) == {"b", "c"}
    assert spans[b].channels == 6
    assert by_name == {
        "a": ChannelLayout((a,), places=2),
        "b": ChannelLayout((b,), places=2),
        "c": ChannelLayout((b,), places=2),
        "add": ChannelLayout((b,), places=2),
        "cat": ChannelLayout((a, b), places=2),
        "permute": ChannelLayout((a, b), "last", places=2),
        "flatten": ChannelLayout((a, b), "only", flat=True),
        "head": ChannelLayout((head,), "only"),
    }


class Cut(nn.Module):
    """A run of a layer's maps is added to those of another layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        one, other = self.a(x).chunk(2, 1)
        return torch.cat([one, other + self.b(x).relu()], 1)


def test_what_runs_of_other_maps_are_part_of_has_no_layout():
    """A permutation of the channels of ``b`` would not reach the run that they are added to."""
    model = Cut()
    graph = fx.Tracer().trace(model)
    spans, layouts = span_layouts(graph, dict(model.named_modules()), set())
    assert {node.name for node in layouts} == {"a"}
    assert all(span.reason for span in spans)
