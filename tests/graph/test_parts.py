"""Which parts of networks get graphs, and the roles of layers in them."""

import threading

import torch
import torch.nn.functional as F
from helpers.recording import Small, called, check, forward_of, images, outputs_of, whole
from torch import nn

from ghostify.graph.find_sites import find_sites, trace_layers
from ghostify.graph.probes import is_same


def roles(model, *args, **kwargs):
    parts = trace_layers(model, (args or (images(),), kwargs))
    return {site.name: site.roles for site in find_sites(model, parts)}


def test_what_is_inside_a_network_that_has_no_graph_is_recorded():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return x if x.shape[-1] % 2 else self.conv(x).relu()

    class Net(Small):
        def __init__(self):
            super().__init__()
            self.one, self.two = Block(), Block()

        def forward(self, x):
            x = self.one(self.stem(x))
            return self.two(x) if bool(x.mean() > -100) else x

    model = Net().eval()
    parts = {part.entry: part for part in trace_layers(model, ((images(),), {}))}
    assert called(parts["one"].graph) == called(parts["two"].graph) == ["conv"]
    x = torch.rand(3, 8, 4, 4)
    assert is_same(outputs_of(model, parts["two"], x), model.two(x))


def test_modules_around_others_that_do_not_trace_get_one_graph():
    class Embed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            if x.shape[1] != 3:
                raise ValueError("channels")
            return self.conv(x)

    class Net(Small):
        def __init__(self):
            super().__init__()
            self.embed = Embed()

        def forward(self, x):
            return self.head(self.conv(self.stem(self.embed(x))).mean((2, 3)))

    model = Net().eval()
    assert len(trace_layers(model)) == 2
    assert len(trace_layers(model, ((images(),), {}))) == 1
    expected = {"embed.conv": {"first"}, "stem": set(), "conv": set(), "head": {"last"}}
    assert roles(model) == expected == {site.name: site.roles for site in find_sites(model)}


def test_the_last_convolution_lies_in_a_module_that_does_not_trace():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            if x.shape[-1] < 2:
                raise ValueError("too small")
            return self.out(self.hidden(x).relu()).sigmoid()

    class Net(Small):
        def __init__(self):
            super().__init__()
            self.decode = Head()
            del self.head

        def forward(self, x):
            return F.interpolate(self.decode(self.conv(self.stem(x))), scale_factor=2)

    model = Net().eval()
    expected = {"stem": {"first"}, "conv": set(), "decode.hidden": set(), "decode.out": {"last"}}
    assert roles(model) == expected


def test_one_layer_under_two_names_belongs_to_one_part():
    class Net(Small):
        def __init__(self):
            super().__init__()
            self.all = nn.Sequential(self.stem, nn.ReLU(), self.conv)

        def forward(self, x):
            return self.all[2](self.all[:2](x))

    model = Net().eval()
    for arguments in (None, ((images(),), {})):
        assert [part.entry for part in trace_layers(model, arguments)] == ["", "head"]


def test_other_threads_run_networks_meanwhile():
    model, other, stop = (
        forward_of(lambda self, x: self.conv(self.stem(self.checked(x)))),
        nn.Conv2d(3, 3, 1),
        threading.Event(),
    )

    def run():
        while not stop.is_set():
            other(images())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert called(check(model)) == ["stem", "conv"]
    finally:
        stop.set()
        thread.join()
    assert nn.Module.__call__.__module__.startswith("torch")


def test_a_network_that_does_not_take_the_arguments_is_traced():
    model = forward_of(lambda self, x: self.conv(self.stem(x)))
    parts = trace_layers(model, ((torch.rand(2, 5, 8, 8),), {}))
    assert called(parts[0].graph) == ["stem", "conv"]


def test_a_network_of_one_number_of_images():
    model = forward_of(lambda self, x: self.stem(self.checked(x)).view(2, 8, -1).mean(2))
    part = whole(model, images(2))
    assert is_same(outputs_of(model, part, images(2, 8, 3)), model(images(2, 8, 3)))


def test_a_loop_over_a_module_is_not_unrolled():
    class Loop(Small):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

        def forward(self, x):
            y = self.stem(self.checked(x))
            for _ in range(3):
                y = self.body(y)
            return y

    parts = {part.entry: part for part in trace_layers(Loop().eval(), ((images(),), {}))}
    assert called(parts["body"].graph) == ["0", "1"]


def test_networks_of_images_in_lists_are_traced_and_not_run():
    model = forward_of(lambda self, x: 1 / 0 if isinstance(x[0], torch.Tensor) else self.conv(self.stem(x)))
    assert trace_layers(model, (([images()[0]],), {}))[0].whole
