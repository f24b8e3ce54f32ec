import pytest
import torch
from helpers.networks import Residual
from helpers.spans import differences, shake, some
from timm.layers import BlurPool2d
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


class Scalar(nn.Module):
    """A factor and an exponent for all maps."""

    def __init__(self):
        super().__init__()
        self.factor, self.exponent = nn.Parameter(torch.tensor([1.5])), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.factor * x.clamp(min=0.1).pow(self.exponent).pow(1.0 / self.exponent)


class Places(nn.Module):
    """A gate for each place, the same for all maps."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        return x * self.gate(x).sigmoid()


class Squeeze(nn.Module):
    """Squeeze and excitation with fully connected layers."""

    def __init__(self):
        super().__init__()
        self.reduce, self.expand = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        return x * nn.functional.hardsigmoid(self.expand(self.reduce(x.mean((2, 3))).relu()))[:, :, None, None]


CHANNELWISE = {
    "relu": torch.relu, "number": lambda x: x * 2, "itself": lambda x: x * x, "pool": nn.AvgPool2d(2),
    "its mean": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "its maximum": lambda x: x / (1 + x.amax((2, 3), keepdim=True).square()),
    "means, one after the other": lambda x: x * x.mean(3).mean(2)[:, :, None, None],
    "power": lambda x: torch.sqrt(torch.abs(x) ** 2 + 1), "scalar parameters": Scalar(),
    "gelu": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "every other place": lambda x: x[:, :, ::2, 1:], "last places": lambda x: x[..., 1:], "all channels": lambda x: x[:, :8],
    "zero pad": nn.ZeroPad2d((1, 0, 1, 0)), "reflection pad": nn.ReflectionPad2d(1),
    "to its own size": lambda x: nn.functional.interpolate(nn.functional.max_pool2d(x, 2), size=x.shape[2:]),
    "pool to half": lambda x: nn.functional.adaptive_avg_pool2d(x, (x.size(2) // 2, x.shape[-1] // 2)),
    "sizes that are asked for in vain": lambda x: x * (x.shape[0] + x.dim()), "its type": lambda x: x.to(x.dtype),
    "blur pool": BlurPool2d(8), "gate for each place": Places(), "squeeze and excitation": Squeeze(), "dropout": nn.Dropout2d(),
}  # fmt: skip


def between(operation):
    return operation if isinstance(operation, nn.Module) else Function(operation)


@pytest.mark.parametrize("name", CHANNELWISE)
def test_what_takes_each_channel_by_itself_leaves_a_span_free_and_narrowing_is_exact(name):
    network = Network(between(CHANNELWISE[name])).double().eval()
    span = first_span(network)
    assert span.reason == ""
    assert "b" in [use.target for use in span.readers]
    apart = differences(network, [some(span, seed=1)], (torch.randn(2, 3, 6, 6, dtype=torch.float64),))
    assert max(apart.values()) < 1e-12


@pytest.mark.parametrize("mode", ["constant", "replicate"])
@pytest.mark.parametrize("widths", [(1, 0, 0, 2, 0, 1), (0, 1)])
def test_padded_volumes_leave_a_span_free_and_narrowing_is_exact(widths, mode):
    pad = Function(lambda x: nn.functional.pad(x, pad=widths if mode == "constant" else (*widths, 0, 0, 0, 0)[:6], mode=mode))
    network = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), pad, nn.Conv3d(8, 4, 1)).double().eval()
    span = next(span for span in find_network_spans(network) if span.makers == ("0",))
    assert span.reason == ""
    apart = differences(network, [some(span, seed=1)], (torch.randn(2, 3, 6, 6, 6, dtype=torch.float64),))
    assert max(apart.values()) < 1e-12


class Tokens(nn.Module):
    """Fully connected layers over places, as in the token mixing of MLP-Mixer; 4 places are as many as there are channels."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16, 16)

    def forward(self, x):
        return self.mix(x.flatten(2)).view(x.shape[0], -1, 4, 4)


class Last(nn.Module):
    """A norm over the channels, which stand last."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Neighbours(nn.Module):
    """A gate that a convolution over the channels makes, as in ECA."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1).sigmoid()


MIXING = {
    "softmax": (lambda x: x.softmax(1), "softmax of between reads its maps"),
    "mean over channels": (lambda x: x / x.mean(1, keepdim=True), "mean of between reads its maps"),
    "mean over channels, from the end": (lambda x: x * x.mean(-3, keepdim=True), "reads its maps"),
    "response norm": (lambda x: x * (y := x.norm(dim=(2, 3), keepdim=True)) / y.mean(1, keepdim=True), "reads its maps"),
    "how many channels": (lambda x: x * x.shape[1], "asks how many channels"),
    "how many channels, from the end": (lambda x: x / x.size(-3), "asks how many channels"),
    "how many numbers": (lambda x: x / x.numel(), "asks how many channels"),
    "all sizes": (lambda x: x + torch.ones(x.shape), "asks how many channels"),
    "shuffle": (
        lambda x: x.view(x.size(0), 2, 4, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2), "view of between reads its maps",
    ),
    "other channels": (lambda x: x.flip(1), "flip of between reads its maps"),
    "places as channels": (lambda x: x.transpose(1, 2).transpose(2, 3).transpose(1, 3), "reads its maps"),
    "constant": (lambda x: x + torch.ones(8, 1, 1), "combines its maps with the parameter"),
    "blur pool of any width": (BlurPool2d(), "between, a BlurPool2d, reads its maps"),
    "group norm": (nn.GroupNorm(2, 8), "between, a GroupNorm, reads its maps"),
    "layer norm": (Last(), "between.norm, a LayerNorm, reads its maps"),
    "token mixing": (Tokens(), "between.mix reads places as channels"),
    "neighbouring channels": (Neighbours(), "reads its maps"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_channels_is_the_reason_of_a_span_that_is_not_free(name):
    operation, reason = MIXING[name]
    network = Network(between(operation))
    network(torch.rand(1, 3, 4, 4))
    assert reason in first_span(network).reason


@pytest.mark.parametrize(
    ("function", "channels", "reason"),
    [
        (lambda x: x[:, :4], 4, "getitem of between reads its maps"),
        (lambda x: x.chunk(2, 1)[0], 4, "chunk of between reads its maps"),
        (lambda x: nn.functional.pad(x, (0, 0, 0, 0, 0, 2)), 10, "reads its maps"),
        (nn.PixelShuffle(2), 2, "reads its maps"),
        (lambda x: torch.cat([x, x.relu()], 1), 16, "b reads its maps twice"),
    ],
    ids=["slice", "chunk", "pad", "pixel shuffle", "concatenated with itself"],
)
def test_what_gives_other_channels_is_the_reason_of_a_span_that_is_not_free(function, channels, reason):
    network = Network(between(function), channels)
    network(torch.rand(1, 3, 4, 4))
    assert reason in first_span(network).reason


class Cut(nn.Module):
    """A CSP block: runs of the first layer's maps go through others and are joined to what those give.

    Args:
        cut: gives two runs of 8 of 16 maps.
        adds: whether a run is added to what is made from it.
    """

    def __init__(self, cut, adds=False):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 16, 1)
        self.norm, self.inner, self.outer = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)
        self.last = nn.Conv2d(24, 5, 1)
        self.cut, self.adds = cut, adds

    def forward(self, x):
        one, other = self.cut(self.first(self.stem(x)))
        made = self.outer(self.inner(self.norm(other)).relu())
        return self.last(torch.cat([one, other, made + other if self.adds else made], 1))


CUTS = {
    "chunk": lambda x: x.chunk(2, 1),
    "torch.chunk": lambda x: torch.chunk(x, chunks=2, dim=-3),
    "split": lambda x: x.split(8, 1),
    "split into sizes": lambda x: torch.split(x, [8, 8], dim=1),
    "getitem from behind": lambda x: (x.chunk(2, dim=1)[0], x.chunk(2, dim=1)[-1]),
    "unequal chunks": lambda x: (x.chunk(5, 1)[0].repeat(1, 2, 1, 1), torch.split(x, (3, 5, 8), 1)[2]),
}


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("name", CUTS)
def test_layers_that_are_joined_to_runs_of_other_maps_are_free(name, adds):
    network = shake(Cut(CUTS[name], adds)).eval()
    spans = {span.makers: span for span in find_network_spans(network)}
    assert "reads its maps, and may mix their channels" in spans["first",].reason
    free = {makers for makers, span in spans.items() if not span.reason}
    joined = {("outer",)} if not adds and "unequal" not in name else set()
    assert free == {("stem",), ("inner",)} | joined
    chosen = [some(spans[makers]) for makers in sorted(free)]
    assert max(differences(network, chosen, (torch.rand(2, 3, 6, 6),)).values()) < 1e-5


def test_what_is_cut_along_places_gives_no_runs_of_channels():
    network = Cut(lambda x: (x.chunk(2, 2)[0][:, :8], x.split([2, 6], -1)[1][:, 8:]))
    free = {span.makers for span in find_network_spans(network) if not span.reason}
    assert free == {("stem",), ("inner",)}


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

    assert "stays as it is (shared weights: called 2 times)" in first_span(Twice()).reason

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


@pytest.mark.parametrize("dims", [0, (0, 2, 3)])
def test_a_mean_over_images_mixes_no_channels(dims):
    reason = first_span(Network(Function(lambda x: x - x.mean(dims, keepdim=True)))).reason
    assert reason == "mean of between takes its maps of all images together"
    mixing = first_span(Network(Function(lambda x: x - x.mean((0, 1), keepdim=True))))
    assert mixing.reason == "mean of between reads its maps, and may mix their channels"
