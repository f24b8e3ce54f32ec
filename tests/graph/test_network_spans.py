"""What the span of a layer in a whole network depends on outside of its graph: sharing, hooks, derived weights, parts."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ghostify.graph.find_sites import find_sites
from ghostify.graph.network_spans import find_network_spans


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        return self.pair(x) if x.sum() > 0 else self.pair(-x)


def tie(network):
    network.other = nn.Conv2d(3, 8, 3)
    network.other.weight = network.a.weight


CHANGES = {
    "tied weights": tie,
    "hook on the maker": lambda network: network.a.register_forward_hook(lambda *_: None),
    "hook on the reader": lambda network: network.b.register_forward_pre_hook(lambda *_: None),
    "hook on what carries": lambda network: network.act.register_forward_hook(lambda *_: None),
    "weight norm": lambda network: weight_norm(network.a),
    "old weight norm": lambda network: torch.nn.utils.weight_norm(network.b),
}


def test_a_pair_of_convolutions_has_a_free_span_between_them():
    (first, last) = find_network_spans(Pair())
    assert (first.makers, first.reason) == (("a",), "")
    assert last.reason == "its maps are an output"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_is_used_elsewhere_bars_the_spans_around_it(change):
    network = Pair()
    change(network)
    assert all(span.reason for span in find_network_spans(network))


def test_an_activation_that_is_called_twice_bars_nothing():
    class Twice(Pair):
        def forward(self, x):
            return self.act(super().forward(x))

    assert find_network_spans(Twice())[0].reason == ""


def test_spans_of_a_part_have_qualified_names():
    spans = find_network_spans(Untraceable())
    assert [span.makers for span in spans] == [("pair.a",), ("pair.b",)]
    assert [use.target for use in spans[0].readers] == ["pair.b"]


class Aided(nn.Module):
    """A network with a head that only training calls."""

    def __init__(self):
        super().__init__()
        self.stem, self.pair, self.aux = nn.Conv2d(3, 3, 1), Pair(), nn.Sequential(nn.Conv2d(4, 2, 1), nn.Flatten())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.pair(self.stem(x))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_what_a_head_reads_in_training_alone_is_not_free():
    network = Aided()
    reasons = {span.makers: span.reason for span in find_network_spans(network)}
    assert network.training
    assert all(module.training for module in network.modules())
    assert reasons[("stem",)] == reasons[("pair.a",)] == ""
    assert reasons[("pair.b",)] == "heads that are called only in training may read its maps"
    assert reasons[("head",)] == "its maps are an output"


def test_every_layer_makes_a_span_also_those_that_are_bound():
    network = Pair()
    network.b.register_forward_hook(lambda *_: None)
    assert [span.makers for span in find_network_spans(network)] == [("a",), ("b",)]
    reason = "b stays as it is (has forward hooks of its own, which would be lost)"
    assert {span.reason for span in find_network_spans(network)} == {reason}


class GhostModuleOfOthers(nn.Sequential):
    """Named as those of the paper's own code."""


class Twice(nn.Sequential):
    def forward(self, x):
        return self[1](self[1](self[0](x)))


def test_the_one_reason_of_a_layer_that_stays_is_the_one_that_its_own_row_has():
    def reason_of(last, kind=nn.Sequential):
        network = kind(nn.Conv2d(3, 8, 1), last)
        site = find_sites(network)[1]
        assert find_network_spans(network)[0].reason == f"{site.name} stays as it is ({site.reason})"
        return site.reason

    conv = nn.Conv2d(8, 8, 1)
    assert reason_of(conv, Twice) == "shared weights: called 2 times"
    assert reason_of(GhostModuleOfOthers(conv)) == "already part of a Ghost module"
    assert reason_of(weight_norm(conv)).startswith("parametrised: ")


def test_a_layer_that_takes_two_inputs_is_told():
    class Bilinear(Pair):
        def __init__(self):
            super().__init__()
            self.both = nn.Bilinear(8, 8, 4)

        def forward(self, x):
            x = self.a(x)
            return self.both(x, self.act(x))

    assert find_network_spans(Bilinear())[0].reason == "both takes 2 inputs, not one"


def test_another_name_of_a_layer_that_is_called_once_bars_nothing():
    network = Pair()
    network.aliases = nn.ModuleList([network.a, network.act, network.b])
    spans = find_network_spans(network)
    assert [span.makers for span in spans] == [("a",), ("b",)]
    assert spans[0].reason == ""


def test_reasons_have_qualified_names_in_parts_too():
    network = Untraceable()
    network.pair.b = nn.ConvTranspose2d(8, 4, 3, groups=2)
    first = find_network_spans(network)[0]
    assert first.reason == "pair.b, a ConvTranspose2d, reads its maps, and may mix their channels"
    assert find_network_spans(Untraceable())[1].reason == "its maps go into code that torch.fx can't trace"


@pytest.mark.parametrize(("overrides", "free"), [((), True), (("forward",), False), (("_conv_forward",), False)])
def test_a_subclass_of_a_convolution_reads_a_span_if_it_computes_as_its_base_does(overrides, free):
    def changed(self, x, *_):
        return torch.relu(x)

    network = Pair()
    network.b.__class__ = type("Own", (nn.Conv2d,), dict.fromkeys(overrides, changed))
    reason = find_network_spans(network)[0].reason
    assert reason == ("" if free else "b, a Own, is more than its weight")
