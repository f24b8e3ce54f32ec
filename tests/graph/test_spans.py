import pytest
import torch
from helpers.networks import Residual
from torch import nn

from ghostify.graph.network_spans import find_network_spans


class Network(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between, channels=8):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(channels, 4, 1)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def first_span(network):
    return next(span for span in find_network_spans(network) if "a" in span.makers)


@pytest.mark.parametrize(
    "function",
    [torch.relu, lambda x: x * 2, lambda x: x * x, lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), nn.AvgPool2d(2)],
    ids=["relu", "number", "itself", "its mean", "pool"],
)
def test_what_takes_each_channel_by_itself_leaves_a_span_free(function):
    span = first_span(Network(Function(function)))
    assert span.reason == ""
    assert [use.target for use in span.readers] == ["b"]


@pytest.mark.parametrize(
    ("function", "channels", "reason"),
    [
        (lambda x: x.softmax(1), 8, "reads its maps"),
        (lambda x: x / x.mean(1, keepdim=True), 8, "reads its maps"),
        (lambda x: x * x.mean(-3, keepdim=True), 8, "reads its maps"),
        (lambda x: x[:, :4], 4, "getitem of between reads its maps"),
        (lambda x: x.view(x.size(0), 2, 4, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2), 8, "reads its maps"),
        (lambda x: nn.functional.pad(x, (0, 0, 0, 0, 0, 2)), 10, "reads its maps"),
        (lambda x: x + torch.ones(8, 1, 1), 8, "combines its maps with the parameter"),
        (nn.GroupNorm(2, 8), 8, "reads its maps"),
        (nn.PixelShuffle(2), 2, "reads its maps"),
    ],
    ids=["softmax", "mean over channels", "mean over channels, from the end", "slice", "shuffle", "pad", "constant",
         "group norm", "pixel shuffle"],
)  # fmt: skip
def test_what_mixes_channels_is_the_reason_of_a_span_that_is_not_free(function, channels, reason):
    network = Network(function if isinstance(function, nn.Module) else Function(function), channels)
    network(torch.rand(1, 3, 4, 4))
    assert reason in first_span(network).reason


def test_a_mean_over_the_channels_of_one_dimensional_maps_is_no_mean_over_places():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 1)

        def forward(self, x):
            x = self.a(x)
            return self.b(x * x.mean(-2, keepdim=True))

    assert "reads its maps" in first_span(Net()).reason


def test_sums_of_several_layers_are_free_only_as_streams():
    model = Residual()
    inside = next(span for span in find_network_spans(model) if span.makers == ("conv1",))
    assert inside.reason == ""
    assert [use.target for use in inside.carriers] == ["bn1"]
    assert [use.target for use in inside.readers] == ["conv2"]
    stem = next(span for span in find_network_spans(model) if "stem" in span.makers)
    assert set(stem.makers) == {"stem", "conv2"}
    assert "added to those of other layers" in stem.reason
    free = next(span for span in find_network_spans(model, streams=True) if "stem" in span.makers)
    assert free.reason == ""
    assert {use.target for use in free.readers} == {"conv1", "head"}


def test_a_layer_that_is_called_twice_and_a_weight_standardised_one_are_told():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            return self.b(self.b(self.a(x)))

    assert "called more than once" in first_span(Twice()).reason

    class Scaled(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) / self.weight.norm()

    network = Network(nn.ReLU())
    network.b = Scaled(8, 4, 1)
    assert "is more than its weight" in first_span(network).reason


def test_concatenations_and_flattened_maps_have_offsets_and_widths():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 6, 1), nn.BatchNorm2d(14)
            self.b, self.head, self.last = nn.Conv2d(14, 5, 1), nn.Linear(14 * 4, 7), nn.Linear(7, 2)

        def forward(self, x):
            x = self.norm(torch.cat([self.a(x), self.c(x)], 1))
            return self.b(x).mean(), self.last(self.head(x.flatten(1)).relu())

    spans = {span.makers: span for span in find_network_spans(Net())}
    assert [(use.target, use.offset, use.width) for use in spans[("c",)].readers] == [("b", 8, 1), ("head", 32, 4)]
    assert [(use.target, use.offset) for use in spans[("c",)].carriers] == [("norm", 8)]
    assert spans[("head",)].reason == ""
    assert "output" in spans[("last",)].reason
