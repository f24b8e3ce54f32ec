"""Small networks of random layers, the same for the same seed."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from helpers.spans import shake

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
SIZES = {1: 16, 2: 8, 3: 6}

BLOCKS = ("plain", "plain", "depthwise", "residual", "concatenation", "gate", "product", "pool", "slice", "twice")


class RandomNetwork(nn.Module):
    """Blocks of random kinds, then a classifier of one or two layers over a mean or over flattened maps.

    Args:
        seed: of the choices; weights come from torch's own state.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.random = random.Random(seed)
        self.dims = self.random.choice((1, 2, 2, 2, 3))
        self.size = self.image_size = SIZES[self.dims]
        self.layers, self.steps = nn.ModuleDict(), []
        self._conv(3, channels := self._width(), 1)
        channels = self._decorate(channels)
        for _ in range(self.random.randint(2, 4)):
            channels = getattr(self, f"_{self.random.choice(BLOCKS)}")(channels)
        self._classifier(channels)
        del self.random

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image."""
        return 3, *[SIZES[self.dims]] * self.dims

    def forward(self, x):
        values = [x]  # x is the one before last, in blocks that branch
        for kind, name in self.steps:
            if kind == "layer":
                values[-1] = self.layers[name](values[-1])
            elif kind == "branch":
                values.append(values[-1])
            elif kind == "swap":
                values[-1], values[-2] = values[-2], values[-1]
            elif kind == "add":
                values[-2:] = [values[-2] + values[-1]]
            elif kind == "multiply":
                values[-2:] = [values[-2] * values[-1]]
            elif kind == "join":
                values[-2:] = [torch.cat([values[-2], values[-1]], 1)]
            elif kind == "mean":
                values[-1] = values[-1].mean(tuple(range(2, 2 + self.dims)), keepdim=name == "keep")
            elif kind == "half":
                values[-1] = values[-1][:, : int(name)]
            elif kind == "function":
                values[-1] = getattr(F, name)(values[-1])
        return values[0]

    def _add(self, layer: nn.Module) -> None:
        name = str(len(self.layers))
        self.layers[name] = layer
        self.steps.append(("layer", name))

    def _do(self, kind: str, name: str = "") -> None:
        self.steps.append((kind, name))

    def _width(self) -> int:
        return self.random.choice((4, 6, 8, 12))

    def _conv(self, inputs: int, outputs: int, groups: int | None = None) -> None:
        if groups is None:
            groups = self.random.choice([g for g in (1, 1, 1, 2, 3) if inputs % g == 0 and outputs % g == 0])
        kernel = self.random.choice((1, 3))
        bias = self.random.random() < 0.5
        self._add(CONVS[self.dims](inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias))

    def _decorate(self, channels: int) -> int:
        """A norm and an activation, or neither."""
        norm = self.random.choice(("batch", "batch", "batch", "instance", "group", "none"))
        if norm == "batch":
            self._add(BATCH_NORMS[self.dims](channels, affine=self.random.random() < 0.8))
        elif norm == "instance":
            self._add(INSTANCE_NORMS[self.dims](channels, affine=True))
        elif norm == "group":
            self._add(nn.GroupNorm(2, channels))
        act = self.random.choice(("relu", "inplace", "silu", "prelu", "one prelu", "function", "hardswish", "none"))
        layers = {
            "relu": nn.ReLU, "inplace": lambda: nn.ReLU(inplace=True), "silu": nn.SiLU, "hardswish": nn.Hardswish,
            "prelu": lambda: nn.PReLU(channels), "one prelu": nn.PReLU,
        }  # fmt: skip
        if act in layers:
            self._add(layers[act]())
        elif act == "function":
            self._do("function", self.random.choice(("relu", "gelu", "leaky_relu", "tanh")))
        return channels

    def _plain(self, channels: int) -> int:
        outputs = self._width()
        self._conv(channels, outputs)
        return self._decorate(outputs)

    def _depthwise(self, channels: int) -> int:
        channels = self._plain(channels)
        self._add(CONVS[self.dims](channels, channels, 3, padding=1, groups=channels, bias=self.random.random() < 0.5))
        return self._plain(self._decorate(channels))

    def _residual(self, channels: int) -> int:
        self._do("branch")
        inner = self._plain(channels)
        self._conv(inner, channels)
        if self.random.random() < 0.5:
            self._add(BATCH_NORMS[self.dims](channels))
        self._do("add")
        return channels

    def _concatenation(self, channels: int) -> int:
        self._do("branch")
        inner = self._plain(channels)
        if self.random.random() < 0.5:
            self._do("swap")
            other = self._plain(channels)
            channels, inner = inner, other
        self._do("join")
        return self._plain(self._decorate(channels + inner))

    def _gate(self, channels: int) -> int:
        channels = self._plain(channels)
        self._do("branch")
        self._do("mean", "keep")
        squeezed = self._width()
        self._add(CONVS[self.dims](channels, squeezed, 1))
        self._add(nn.ReLU())
        self._add(CONVS[self.dims](squeezed, channels, 1))
        self._add(nn.Sigmoid())
        self._do("multiply")
        return self._plain(channels)

    def _product(self, channels: int) -> int:
        """Two layers that make the same maps."""
        outputs = self._width()
        self._do("branch")
        self._conv(channels, outputs, 1)
        self._do("swap")
        self._conv(channels, outputs, 1)
        self._do("function", "tanh")
        self._do("multiply")
        return self._plain(outputs)

    def _pool(self, channels: int) -> int:
        channels = self._plain(channels)
        if self.size >= 4:
            self._add(self.random.choice((MAX_POOLS, AVERAGE_POOLS))[self.dims](2))
            self.size //= 2
        return channels

    def _slice(self, channels: int) -> int:
        """Half of the maps, by their number: a span that has to stay as it is."""
        self._do("half", str(channels // 2))
        return self._plain(channels // 2)

    def _twice(self, channels: int) -> int:
        """Maps that two layers read, one of them with a norm of its own before it."""
        channels = self._plain(channels)
        outputs = self._width()
        self._do("branch")
        self._add(BATCH_NORMS[self.dims](channels))
        self._conv(channels, outputs)
        self._do("swap")
        self._conv(channels, outputs)
        self._do("add")
        return outputs

    def _classifier(self, channels: int) -> None:
        if self.random.random() < 0.5:
            self._do("mean")
        else:
            self._add(nn.Flatten())
            channels *= self.size**self.dims
        if self.random.random() < 0.5:
            hidden = self._width()
            self._add(nn.Linear(channels, hidden))
            self._add(nn.ReLU())
            channels = hidden
        self._add(nn.Linear(channels, 5))


def random_network(seed: int) -> RandomNetwork:
    """A network in evaluation mode whose values differ from channel to channel."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return shake(RandomNetwork(seed), seed).eval()


def random_images(model: RandomNetwork, count: int, seed: int = 0) -> torch.Tensor:
    """Standard normal images that a random network takes."""
    return torch.randn(count, *model.input_shape, generator=torch.Generator().manual_seed(seed))
