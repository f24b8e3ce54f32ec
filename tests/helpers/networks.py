"""Small networks, and weights that look trained."""

import torch
from torch import nn


class Residual(nn.Module):
    """A shortcut, a shared activation and a function: what real networks do and a Sequential does not."""

    def __init__(self, channels: int = 16, act: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = act()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.act(self.stem(x))
        y = self.act(self.bn1(self.conv1(x)))
        x = nn.functional.relu(self.bn2(self.conv2(y)) + x)
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """Expansion, depthwise convolution, a gate, groups, a concatenation, a pool and a flattened map.

    Args:
        squeezed: how many maps the gate sees.
        bias: whether the layer that reads the concatenation has one.
    """

    def __init__(self, squeezed: int = 6, bias: bool = False):
        super().__init__()
        self.expand, self.norm, self.act = nn.Conv2d(3, 12, 1, bias=False), nn.BatchNorm2d(12), nn.PReLU(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, squeezed, 1), nn.Conv2d(squeezed, 12, 1)
        self.project = nn.Conv2d(12, 8, 1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.side = nn.Conv2d(16, 6, 3, padding=1)
        self.joint_norm, self.mix = nn.BatchNorm2d(22), nn.Conv2d(22, 4, 1, bias=bias)
        self.head, self.last = nn.Linear(4 * 9, 10), nn.Linear(10, 5)

    def forward(self, x):
        x = self.depthwise(self.act(self.norm(self.expand(x))))
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = self.grouped(self.project(x).relu())
        x = torch.cat([x, self.side(x)], 1)
        x = nn.functional.max_pool2d(self.mix(self.joint_norm(x).relu()), 2)
        return self.last(self.head(torch.flatten(x, 1)).relu())


class Upwards(nn.Module):
    """A small U-Net whose decoder makes its maps larger by transposed convolutions, with and without overlap.

    Args:
        dims: dimensions of places.
    """

    def __init__(self, dims: int = 2):
        super().__init__()
        names = ("Conv", "ConvTranspose", "BatchNorm", "MaxPool")
        conv, transposed, norm, pool = (getattr(nn, f"{name}{dims}d") for name in names)
        self.stem, self.down, self.low = conv(3, 8, 3, padding=1), pool(2), conv(8, 12, 3, padding=1)
        self.up, self.norm = transposed(12, 8, 2, stride=2, bias=False), norm(8)
        self.up_more = transposed(16, 8, 3, stride=2, padding=1, output_padding=1)
        self.head = conv(8, 2, 1)

    def forward(self, x):
        high = self.stem(x).relu()
        up = self.norm(self.up(self.low(self.down(high)).relu())).relu()
        return self.head(self.up_more(torch.cat([up, high], 1)).relu())


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms statistics and weights that differ from channel to channel, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            for tensor, low, high in (
                (module.weight, 0.2, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.3, 2.0),
            ):
                values = torch.rand(tensor.shape, generator=generator) * (high - low) + low
                tensor.data.copy_(values)
    return model
