"""Blocks of two convolutions, each with one thing that torch.fx sees wrongly or not at all; they take and give 8 maps."""

import functools
import random
import types
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.random_networks import BATCH_NORMS, CONVS

WIDTH = 8
KINDS: dict[str, type["Block"]] = {}
LOOKED: list[torch.Size] = []  # what the hooks that only look have seen
ACTIVATIONS = (nn.ReLU, nn.ReLU6, functools.partial(nn.ReLU, inplace=True))  # that change nothing the second time


class Block(nn.Module):
    """Convolution, norm and activation, twice; the subclasses say how it is called.

    Args:
        rng: of the choices.
        dims: of the maps.
    """

    def __init_subclass__(cls, kind: str = "") -> None:
        if kind:
            KINDS[kind] = cls

    def __init__(self, rng: random.Random, dims: int):
        super().__init__()
        self.dims, inner = dims, rng.choice((4, 8, 12))
        self.c0, self.n0, self.a0 = self.layers_of(rng, WIDTH, inner)
        self.c1, self.n1, self.a1 = self.layers_of(rng, inner, WIDTH)
        self.build(rng)

    def layers_of(self, rng: random.Random, inputs: int, outputs: int) -> list[nn.Module]:
        kernel, groups = rng.choice((1, 3)), rng.choice((1, 1, 1, 2))
        conv = CONVS[self.dims](inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=rng.random() < 0.5)
        norm = BATCH_NORMS[self.dims](outputs) if rng.random() < 0.75 else nn.Identity()
        return [conv, norm, rng.choice(ACTIVATIONS)()]

    def build(self, rng: random.Random) -> None:
        """What a subclass adds."""

    def first(self, x):
        return self.a0(self.n0(self.c0(x)))

    def second(self, x):
        return self.a1(self.n1(self.c1(x)))

    def forward(self, x):
        return self.second(self.first(x))


class Plain(Block, kind="plain"):
    pass


class Residual(Block, kind="residual"):
    def forward(self, x):
        return x + self.n1(self.c1(self.first(x)))


class Concatenation(Block, kind="concatenation"):
    def build(self, rng):
        self.join = CONVS[self.dims](2 * WIDTH, WIDTH, 1)

    def forward(self, x):
        return self.join(torch.cat([x, self.second(self.first(x))], 1))


class Gate(Block, kind="gate"):
    def build(self, rng):
        self.gate = CONVS[self.dims](WIDTH, WIDTH, 1)

    def forward(self, x):
        x = self.second(self.first(x))
        return x * self.gate(x.mean(tuple(range(2, x.dim())), keepdim=True)).sigmoid()


class Depthwise(Block, kind="depthwise"):
    def build(self, rng):
        self.middle = CONVS[self.dims](self.c0.out_channels, self.c0.out_channels, 3, padding=1, groups=self.c0.out_channels)

    def forward(self, x):
        return self.second(self.middle(self.first(x)))


def _hooked(block: Block, rng: random.Random) -> nn.Module:
    """A module whose hook a conversion could lose."""
    return rng.choice([block, block.c0, block.n0, block.a0, block.c1, block.n1])


class HookThatChanges(Block, kind="hook that changes"):
    def build(self, rng):
        _hooked(self, rng).register_forward_hook(lambda module, args, output: 0.5 - output)


class HookThatLooks(Block, kind="hook that looks"):
    def build(self, rng):
        _hooked(self, rng).register_forward_hook(lambda module, args, output: LOOKED.append(output.shape))


class PreHook(Block, kind="pre-hook"):
    def build(self, rng):
        _hooked(self, rng).register_forward_pre_hook(lambda module, args: ((args[0] - 0.5) / 0.25,))


class Walked(Block, kind="tap"):
    """Walks over a Sequential and keeps some values, as features for a perceptual loss."""

    def build(self, rng):
        self.layers = nn.Sequential(self.c0, self.n0, self.a0, self.c1, self.n1, self.a1)
        del self.c0, self.n0, self.a0, self.c1, self.n1, self.a1
        self.taps = rng.sample(range(6), 2)

    def forward(self, x):
        if x.shape[-1] < 2:
            raise ValueError("too small")
        kept = 0.0
        for position, layer in enumerate(self.layers):
            x = layer(x)
            if position in self.taps:
                kept = kept + x.amin(1, keepdim=True)
        return x + kept


class TappedChildren(Walked, kind="tap by name"):
    def build(self, rng):
        super().build(rng)
        self.layers = nn.ModuleDict({f"layer{k}": layer for k, layer in enumerate(self.layers)})
        self.taps = [f"layer{k}" for k in self.taps]

    def forward(self, x):
        kept = 0.0
        for name, layer in self.layers.items():
            x = layer(x)
            if name in self.taps:
                kept = kept + x.amin(1, keepdim=True)
        return x + kept


class TappedClass(Walked, kind="tap by class"):
    """Asks each layer for its class."""

    def build(self, rng):
        super().build(rng)
        self.tapped = rng.choice([(type(self.layers[0]),), (BATCH_NORMS[self.dims],), (nn.ReLU, nn.ReLU6)])

    def forward(self, x):
        kept = 0.0
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, self.tapped):
                kept = kept + x.amin(1, keepdim=True)
        return x + kept


class TappingSequential(nn.Sequential):
    def forward(self, x):
        kept = []
        for layer in self:
            x = layer(x)
            kept.append(x)
        return kept


class TapsInSequential(Block, kind="sequential with a forward of its own"):
    def build(self, rng):
        self.layers = TappingSequential(self.c0, self.n0, self.a0, self.c1, self.n1, self.a1)
        self.tap = rng.randrange(6)

    def forward(self, x):
        kept = self.layers(x)
        return kept[-1] + kept[self.tap].amin(1, keepdim=True)


class Alias(Block, kind="alias"):
    """nnU-Net's way: each layer stands in a Sequential as well."""

    def build(self, rng):
        self.all_modules = nn.Sequential(self.c0, self.n0, self.a0, self.c1, self.n1, self.a1)

    def forward(self, x):
        return self.all_modules(x)


class OtherAlias(Alias, kind="alias called by its first name"):
    def forward(self, x):
        return self.second(self.first(x))


class PlainList(Block, kind="plain list"):
    def build(self, rng):
        self.steps = [self.c0, self.n0, self.a0, self.c1, self.n1, self.a1]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class PlainDict(Block, kind="plain dict"):
    def build(self, rng):
        self.steps = {"first": (self.c0, self.n0, self.a0), "second": [self.c1, self.n1, self.a1]}

    def forward(self, x):
        for name in ("first", "second"):
            for step in self.steps[name]:
                x = step(x)
        return x


class LambdaOverSelf(Block, kind="lambda over self"):
    def build(self, rng):
        self.step = lambda x: self.a0(self.n0(self.c0(x)))

    def forward(self, x):
        return self.second(self.step(x))


def _calling(layer: nn.Module):
    def call(x):
        return layer(x)

    return call


class ClosureOverNorm(Block, kind="closure over a norm"):
    def build(self, rng):
        self.step = _calling(self.n0)

    def forward(self, x):
        return self.second(self.a0(self.step(self.c0(x))))


class ClosureOverLayers(Block, kind="closure over layers"):
    def build(self, rng):
        self.steps = (_calling(self.c0), _calling(self.n0))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.second(self.a0(x))


class BoundMethod(Block, kind="bound method"):
    def build(self, rng):
        self.step = functools.partial(self.first) if rng.random() < 0.5 else self.first

    def forward(self, x):
        return self.second(self.step(x))


class Summing(Block):
    """A child that adds a skip, if there is one."""

    def forward(self, x, skip=None):
        x = self.second(self.first(x))
        return x + skip if self.wants(skip) else -x

    def wants(self, skip):
        return skip is not None


class IsInstance(Summing):
    def wants(self, skip):
        return isinstance(skip, Tensor)


class JitIsInstance(Summing):
    def wants(self, skip):
        return torch.jit.isinstance(skip, Tensor)


class TypeIs(Summing):
    def wants(self, skip):
        return type(skip) in (Tensor, nn.Parameter)


class HasChild(Block):
    """Two blocks: this one's layers, then a child."""

    child: type[Block] = Summing

    def build(self, rng):
        self.inner = self.child(rng, self.dims)

    def forward(self, x):
        return self.inner(self.second(self.first(x)), x)


class WithIsInstance(HasChild, kind="isinstance"):
    child = IsInstance


class WithJitIsInstance(HasChild, kind="torch.jit.isinstance"):
    child = JitIsInstance


class WithType(HasChild, kind="type"):
    child = TypeIs


class Keywords(HasChild, kind="keyword call"):
    def forward(self, x):
        return self.inner(skip=x, x=self.second(self.first(x)))


class LeftOut(HasChild, kind="optional argument left out"):
    def forward(self, x):
        return self.inner(self.second(self.first(x)))


class SizeCheck(Block, kind="size check"):
    def forward(self, x):
        if x.shape[-1] % 2 or x.shape[1] != WIDTH:
            raise ValueError("sides must be even")
        return super().forward(x)


class ValueCheck(Block, kind="value check"):
    def forward(self, x):
        x = self.first(x)
        return self.second(x) if bool(x.isfinite().all()) else x


class PatchedForward(Block, kind="patched forward"):
    def build(self, rng):
        def forward(self, x):
            return self.second(0.5 - self.first(x))

        self.forward = types.MethodType(forward, self)


class PatchedLayer(Block, kind="patched forward of a layer"):
    def build(self, rng):
        layer = rng.choice((self.c0, self.n0))
        layer.forward = types.MethodType(lambda layer, x: 0.5 - type(layer).forward(layer, x), layer)


class PatchedByLambda(Block, kind="forward patched by a lambda"):
    def build(self, rng):
        self.forward = lambda x: self.second(0.5 - self.first(x))


class ModuleInForward(Block, kind="module made in forward"):
    def forward(self, x):
        return self.a1(self.n1(self.c1(nn.ReLU()(self.n0(self.c0(x))))))


class Slices(Block, kind="slice of a Sequential"):
    def build(self, rng):
        self.layers = nn.Sequential(self.c0, self.n0, self.a0, self.c1, self.n1, self.a1)
        del self.c0, self.n0, self.a0, self.c1, self.n1, self.a1
        self.at = rng.randrange(1, 6)

    def forward(self, x):
        x = self.layers[: self.at](x)
        return self.layers[self.at :](x) + x.amin(1, keepdim=True)


class CalledTwice(Block, kind="called twice"):
    def build(self, rng):
        self.c2 = CONVS[self.dims](WIDTH, WIDTH, 1)

    def forward(self, x):
        return self.c2(self.c2(super().forward(x)).relu())


class BlockTwice(HasChild, kind="block called twice"):
    child = Plain

    def forward(self, x):
        return self.inner(self.inner(self.second(self.first(x))) + x)


@dataclass
class Maps:
    first: Tensor
    last: Tensor


class Outputs(Block):
    def forward(self, x):
        first = self.first(x)
        return self.pack(first, self.second(first))

    def pack(self, first, last):
        return first, last
