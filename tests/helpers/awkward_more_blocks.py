"""More blocks that are awkward: by what they give, by what they ask of their children, and by what they change."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from helpers.awkward_blocks import KINDS as KINDS
from helpers.awkward_blocks import WIDTH, Block, HasChild, Maps, Outputs, Plain
from helpers.random_networks import CONVS


class Dicts(Outputs):
    def pack(self, first, last):
        return {"first": first, "last": last}


class DictOutput(HasChild, kind="dict output"):
    child = Dicts

    def forward(self, x):
        maps = self.inner(self.second(self.first(x)))
        return maps["last"] + maps["first"].amin(1, keepdim=True)


class TupleOutput(HasChild, kind="tuple output"):
    child = Outputs

    def forward(self, x):
        first, last = self.inner(self.second(self.first(x)))
        return last + first.amin(1, keepdim=True)


class Datas(Outputs):
    def pack(self, first, last):
        return Maps(first, last)


class DataOutput(HasChild, kind="dataclass output"):
    child = Datas

    def forward(self, x):
        maps = self.inner(self.second(self.first(x)))
        return maps.last + maps.first.amin(1, keepdim=True)


class Takes(Block):
    def forward(self, maps):
        return self.second(self.first(maps[0])) + maps[-1]


class ListArgument(HasChild, kind="list argument"):
    child = Takes

    def forward(self, x):
        return self.inner([self.second(self.first(x)), x])


class Encoder(Block):
    def build(self, rng):
        self._stride = 2

    @property
    def output_stride(self):
        return self._stride

    def extract_features(self, x):
        return self.second(self.first(x))

    def forward(self, x):
        return self.extract_features(x)


class ChildProperty(HasChild, kind="property of a child"):
    child = Encoder

    def forward(self, x):
        if x.shape[-1] % self.inner.output_stride:
            raise RuntimeError("size")
        return self.inner(self.second(self.first(x)))


class ChildMethod(HasChild, kind="method of a child"):
    child = Encoder

    def forward(self, x):
        return self.inner.extract_features(self.second(self.first(x)))


class ChildInside(HasChild, kind="layers of a child"):
    """Calls the child's layers, not the child."""

    child = Plain

    def forward(self, x):
        x = self.inner.c0(self.second(self.first(x)))
        return self.inner.second(self.inner.a0(self.inner.n0(x))) + x.amin(1, keepdim=True)


class Routed(Block, kind="attributes of layers"):
    """YOLO's way: each layer says where its input comes from."""

    def build(self, rng):
        self.model = nn.Sequential(self.c0, self.n0, self.a0, self.c1, self.n1, self.a1)
        del self.c0, self.n0, self.a0, self.c1, self.n1, self.a1
        for position, layer in enumerate(self.model):
            layer.i, layer.f = position, -1
        self.save = {rng.randrange(6)}

    def forward(self, x):
        kept = []
        for layer in self.model:
            x = layer(x if layer.f == -1 else kept[layer.f])
            kept.append(x if layer.i in self.save else None)
        return x + sum(maps.amin(1, keepdim=True) for maps in kept if maps is not None)


class InPlace(Block, kind="in-place activation"):
    def build(self, rng):
        self.after = rng.choice((F.relu_, torch.relu_, lambda x: x.clamp_(min=0), lambda x: x.mul_(2)))

    def forward(self, x):
        y = self.n0(self.c0(x))
        self.after(y)
        return self.second(y)


class InPlaceTapped(Block, kind="in-place activation of maps that are used before and after"):
    def build(self, rng):
        self.a0 = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.n0(self.c0(x))
        low = y.amin(1, keepdim=True)
        z = self.a0(y)
        return self.second(z) + low + y.amax(1, keepdim=True)


class ReadsLayer(Block, kind="attribute of a layer read"):
    def forward(self, x):
        x = self.first(x.to(self.c0.weight.dtype))
        return self.second(x.reshape(x.shape[0], self.c0.out_channels, *x.shape[2:]))


class Sizes(Block, kind="sizes"):
    def forward(self, x):
        y = F.interpolate(super().forward(x), scale_factor=0.5)
        return F.interpolate(y, size=x.shape[2:]) + x.view(x.size(0), -1).mean(1).view(-1, *[1] * (self.dims + 1))


class Shifted1d(nn.Conv1d):
    def forward(self, x):
        return super().forward(0.5 - x)


class Shifted2d(nn.Conv2d):
    def forward(self, x):
        return super().forward(0.5 - x)


class Shifted3d(nn.Conv3d):
    def forward(self, x):
        return super().forward(0.5 - x)


class Subclass(Block, kind="subclass of a convolution"):
    def build(self, rng):
        self.c2 = (Shifted1d, Shifted2d, Shifted3d)[self.dims - 1](WIDTH, WIDTH, 1)

    def forward(self, x):
        return self.c2(super().forward(x))


class SameWeight(Block, kind="shared weight"):
    def build(self, rng):
        self.c2, self.c3 = (CONVS[self.dims](WIDTH, WIDTH, 1) for _ in range(2))
        self.c3.weight = self.c2.weight

    def forward(self, x):
        return self.c3(self.c2(super().forward(x)).relu())


class Counts(Block, kind="state"):
    """Counts its calls, and divides by nothing but one."""

    def build(self, rng):
        self.calls = 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        return super().forward(x)


class Variadic(HasChild, kind="variadic arguments"):
    child = Plain

    def forward(self, *maps, **options):
        return self.inner(self.second(self.first(*maps)), **options)


class Contexts(Block, kind="context"):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            x = self.first(x)
        return checkpoint(self.second, x, use_reentrant=False)


class Outside(Block, kind="layer outside the module tree"):
    def build(self, rng):
        self.hidden = [self.layers_of(rng, WIDTH, WIDTH)[0]]

    def forward(self, x):
        return self.hidden[0](super().forward(x))


class Both(Block, kind="maps used twice"):
    def build(self, rng):
        self.after = rng.choice(("c0", "n0", "a0"))

    def forward(self, x):
        maps = {"c0": (y := self.c0(x)), "n0": (z := self.n0(y))}
        maps["a0"] = self.a0(z.clone())
        return self.second(maps["a0"]) + maps[self.after].amax(1, keepdim=True)


class FunctionalConv(Block, kind="functional convolution"):
    def build(self, rng):
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, *[1] * self.dims) * 0.2)

    def forward(self, x):
        conv = getattr(F, f"conv{self.dims}d")
        x = conv(conv(x, self.weight).relu(), self.c0.weight, padding=self.c0.padding, groups=self.c0.groups)
        return self.second(self.a0(self.n0(x)))


class Derived(Block, kind="derived weight"):
    """Of which the weight is made at each call."""

    def build(self, rng):
        wrap = rng.choice((weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm, prune))
        layer = rng.choice((self.c0, self.c1))
        prune.ln_structured(layer, "weight", 0.5, 2, 1) if wrap is prune else wrap(layer)
