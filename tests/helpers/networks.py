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
