"""What a network costs for each number of channels that its spans keep: exactly what the narrowed network costs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..common.calls import PositionalArguments
from ..common.costs import count_params, measure
from ..graph.spans import Span
from ..layers.convolution import Convolution, WeightedLayer, as_weighted
from .layer_seconds import LayerSeconds
from .width_network import LayerCost


@dataclass(frozen=True)
class WidthCosts:
    """The costs of a network by the widths of its spans.

    Attributes:
        total: of the original: multiply-adds, parameters, or seconds.
        layers: what the widths change, and as a layer without reads what they do not; spans are named by their positions in
            the list that was asked about.
    """

    total: float
    layers: tuple[LayerCost, ...]


def width_costs(
    metric: str,
    model: nn.Module,
    spans: Sequence[Span],
    arguments: PositionalArguments,
    sites: Sequence[str] = (),
    seconds: LayerSeconds | None = None,
) -> WidthCosts:
    """The costs of a model by ``"flops"``, ``"params"`` or ``"latency"``.

    Args:
        metric: multiply-adds of one forward pass, or how many numbers parameters hold; or seconds, where each multiply-add of
            a layer takes as long as it does in the original's.
        model: the original.
        spans: whose widths may change; all others keep their channels.
        arguments: of a forward pass; for FLOPs alone.
        sites: qualified names of layers that make no such span, and may come to compute fewer of their outputs from their
            inputs; their positions follow those of the spans.
        seconds: of layers and of the whole; for latency alone.
    """
    around = _Surroundings(dict(model.named_modules(remove_duplicate=False)), spans, sites)
    if metric == "params":
        total: float = count_params(model)
        dense: list[tuple[LayerCost, float]] = [*around.weights(around.numbers), *around.values()]
    elif seconds is not None:
        total, dense = seconds.total, list(around.weights(seconds.layers))
    else:
        costs = measure(model, arguments, around.weighted)
        flops = {name: number * costs.positions.get(name, 0) for name, number in around.numbers.items()}
        total, dense = costs.flops, list(around.weights(flops))
    rest = total - sum(cost for _, cost in dense)
    return WidthCosts(total, (LayerCost(rest, inputs=1), *(layer for layer, _ in dense)))


class _Surroundings:
    """The layers that make, carry and read some spans.

    Attributes:
        weighted: qualified names of convolutions and fully connected layers, in the order of the spans.
        numbers: how many numbers the weight of each of them holds.
    """

    def __init__(self, modules: Mapping[str, nn.Module], spans: Sequence[Span], sites: Sequence[str] = ()):
        self.modules, self.spans = modules, spans
        self.makers = {maker: index for index, span in enumerate(spans) for maker in span.makers}
        self.makes = self.makers | {name: len(spans) + index for index, name in enumerate(sites)}
        self.reads: dict[str, list[tuple[int, float]]] = {}
        self.carries: dict[str, list[tuple[int, float]]] = {}
        for index, span in enumerate(spans):
            for use in span.readers:
                self.reads.setdefault(use.target, []).append((index, use.width))
            for use in span.carriers:
                self.carries.setdefault(use.target, []).append((index, use.width))
        names = dict.fromkeys([*self.makes, *self.reads, *self.carries])
        self.weighted = [name for name in names if isinstance(modules[name], (nn.Linear, Convolution))]
        self.numbers = {name: as_weighted(modules[name]).weight.numel() for name in self.weighted}

    def weights(self, costs: Mapping[str, float]) -> Iterator[tuple[LayerCost, float]]:
        """The costs of convolutions and fully connected layers, and what they are in the original.

        Args:
            costs: of each layer in the original; a layer that is not among them never runs.
        """
        for name in self.weighted:
            layer = self.modules[name]
            assert isinstance(layer, WeightedLayer)
            cost = costs.get(name, 0)
            if name in self.carries:
                yield self._of_channels(name, cost), cost
                continue
            inputs, outputs = _inputs_and_outputs(layer)
            reads = tuple(self.reads.get(name, ()))
            fixed = inputs - sum(width * self.spans[index].channels for index, width in reads)
            yield LayerCost(cost / (inputs * outputs), reads, fixed, self.makes.get(name), outputs), cost

    def values(self) -> Iterator[tuple[LayerCost, float]]:
        """Biases, and what norms, activations and depthwise convolutions have besides a weight, for each channel."""
        for name in self.makers:
            bias = getattr(self.modules[name], "bias", None)
            if bias is not None:
                yield LayerCost(1, inputs=1, makes=self.makers[name]), bias.numel()
        for name in self.carries:
            carrier = self.modules[name]
            weight = carrier.weight if name in self.weighted else None
            values = sum(p.numel() for p in carrier.parameters() if p is not weight and p.numel() > 1)
            if values:
                yield self._of_channels(name, values), values

    def _of_channels(self, name: str, cost: float) -> LayerCost:
        """A cost that is equal for each channel that a layer carries."""
        carried = self.carries[name]
        known = sum(self.spans[index].channels for index, _ in carried)
        channels = next(t.shape[0] for t in self.modules[name].parameters() if t.numel() > 1)
        return LayerCost(cost / channels, tuple((index, 1) for index, _ in carried), channels - known)


def _inputs_and_outputs(layer: WeightedLayer) -> tuple[int, int]:
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (layer.in_channels, layer.out_channels)
