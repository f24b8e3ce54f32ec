"""Networks whose norms have seen data, smooth pictures, and how far a student is from its teacher."""

import torch
import torch.nn.functional as F
from torch import nn

import ghostify
from helpers.networks import Residual, randomize


def images(count=64, size=12, channels=3, seed=0):
    """Smooth random pictures: neighbouring pixels are alike, as in photographs."""
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, 1, 1) * 3


def trained(model, size=12, channels=3):
    """Norms that have seen data, in evaluation mode."""
    randomize(model)
    ghostify.reestimate_norms(model, images(64, size, channels, seed=9))
    return model.eval()


def chain(*layers, channels=24):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), *layers,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5),
    )  # fmt: skip


def error(student, teacher, x):
    with torch.no_grad():
        wanted = teacher(x)
        return float((student(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


class PreActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1, self.conv1 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv2(F.relu_(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.head(F.relu(x).mean((2, 3)))


class Opaque(nn.Module):
    """Forward code that no tracer follows, around a part that traces."""

    def __init__(self):
        super().__init__()
        self.body, self.head = Residual(), nn.Linear(10, 5)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return self.head(torch.cat([self.body(part) for part in x.split(len(x) // 2 or 1)]))


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def wide(inputs=16, outputs=24, conv=nn.Conv2d, **options):
    return conv(inputs, outputs, 3, padding=1, **options)


NETWORKS = {
    "batch norm": lambda: chain(wide(bias=False), nn.BatchNorm2d(24), nn.ReLU()),
    "no norm": lambda: chain(wide(), nn.ReLU(inplace=True)),
    "no activation": lambda: chain(wide(), nn.BatchNorm2d(24)),
    "grouped": lambda: chain(wide(groups=2), nn.BatchNorm2d(24), nn.SiLU(inplace=True)),
    "instance norm": lambda: chain(wide(), nn.InstanceNorm2d(24, affine=True), nn.ReLU()),
    "prelu": lambda: chain(wide(), nn.BatchNorm2d(24), nn.PReLU(24)),
    "weight standardised": lambda: chain(wide(conv=Standardised), nn.BatchNorm2d(24), nn.ReLU()),
    "no affine": lambda: chain(wide(), nn.BatchNorm2d(24, affine=False), nn.ReLU()),
    "residual": Residual,
    "residual, gelu": lambda: Residual(act=nn.GELU),
    "pre-activation": PreActivation,
    "opaque": Opaque,
}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


X = images(8)


def small_teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(Residual())


TEACHER = small_teacher()
