"""Small networks of awkward blocks, the same for the same seed, whose maps repeat in pairs."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from helpers.awkward_blocks import ACTIVATIONS, WIDTH
from helpers.awkward_more_blocks import KINDS
from helpers.random_networks import BATCH_NORMS, CONVS, SIZES
from helpers.spans import shake

UNREMARKABLE = ("plain", "residual", "concatenation", "gate", "depthwise")  # what torch.fx has no trouble with
BLOCK_KINDS = tuple(sorted(set(KINDS) - set(UNREMARKABLE)))
NETWORK_KINDS = (
    "network with a size check", "network with optional arguments", "network with a dict of outputs",
    "network with a list of outputs", "network with a pre-hook", "network with a hook", "network with a plain list of blocks",
)  # fmt: skip
ALL_KINDS = (*BLOCK_KINDS, *NETWORK_KINDS)


def kinds_of(seed: int) -> list[str]:
    """The kinds of awkward things in the network of this seed: one to three."""
    rng = random.Random(seed)
    return rng.sample(ALL_KINDS, rng.choice((1, 1, 2, 2, 3)))


class AwkwardNetwork(nn.Module):
    """A first convolution, blocks, a mean and a linear layer.

    Args:
        seed: of the choices; weights come from torch's own state.
        kinds: of the awkward things; those of the seed by default.
    """

    def __init__(self, seed: int, kinds: Sequence[str] | None = None):
        super().__init__()
        self.kinds = tuple(kinds_of(seed) if kinds is None else kinds)
        rng = random.Random(seed)
        self.dims = 3 if seed % 50 == 49 else rng.choice((1, 2, 2, 2))
        if self.dims == 3:  # convolutions in 3 dimensions are slow in double precision
            self.image_size = SIZES[3]
        self.stem = nn.Sequential(
            CONVS[self.dims](3, WIDTH, 3, padding=1), BATCH_NORMS[self.dims](WIDTH), rng.choice(ACTIVATIONS)()
        )
        names = [kind for kind in self.kinds if kind in KINDS] + [rng.choice(UNREMARKABLE)]
        rng.shuffle(names)
        blocks = [KINDS[name](rng, self.dims) for name in names]
        self.blocks = nn.ModuleList(blocks)
        self.steps = blocks if "network with a plain list of blocks" in self.kinds else None
        self.head = nn.Linear(WIDTH, 5)
        self.checked = "network with a size check" in self.kinds
        self.gives = "dict" if "network with a dict of outputs" in self.kinds else "tensor"
        self.gives = "list" if "network with a list of outputs" in self.kinds else self.gives
        if "network with a pre-hook" in self.kinds:
            self.register_forward_pre_hook(lambda module, args: ((args[0] - 0.5) / 0.25, *args[1:]))
        if "network with a hook" in self.kinds:
            self.stem.register_forward_hook(lambda module, args, output: output * 2)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image."""
        return 3, *[SIZES[self.dims]] * self.dims

    def forward(self, pixel_values, labels=None):
        return self.compute(pixel_values)

    def compute(self, x):
        if self.checked and x.shape[-1] % 2:
            raise ValueError("sides must be even")
        x, features = self.stem(x), []
        for block in self.steps or self.blocks:
            x = block(x)
            features.append(x)
        logits = self.head(x.mean(tuple(range(2, x.dim()))))
        if self.gives == "tensor":
            return logits
        return {"logits": logits, "features": features[0]} if self.gives == "dict" else [*features, logits]


class OptionalNetwork(AwkwardNetwork):
    def forward(self, pixel_values=None, labels=None, return_dict=None):
        if pixel_values is None:
            raise ValueError("pixel_values are missing")
        return self.compute(pixel_values)


def awkward_network(seed: int, kinds: Sequence[str] | None = None, dtype: torch.dtype = torch.float64) -> AwkwardNetwork:
    """A network in evaluation mode, where maps 2i and 2i + 1 of each layer but the last are equal."""
    kinds = kinds_of(seed) if kinds is None else kinds
    made = OptionalNetwork if "network with optional arguments" in kinds else AwkwardNetwork
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = made(seed, kinds)
        shake(network, seed)
    with torch.no_grad():
        for tensor in tensors_of(network):
            if tensor.dim() and len(tensor) % 2 == 0:
                tensor[1::2] = tensor[::2].clone()
    for module in modules_of(network):
        module.to(dtype)
    return network.eval()


def modules_of(network: nn.Module) -> list[nn.Module]:
    """All modules, those outside the module tree among them."""
    hidden = [layer for module in network.modules() for layer in getattr(module, "hidden", ())]
    return [*network.modules(), *hidden]


def tensors_of(network: nn.Module) -> list[Tensor]:
    """All floating-point tensors of a network but those of the head."""
    found = {}
    for module in modules_of(network):
        if not isinstance(module, nn.Linear):
            found |= {id(t): t for t in [*module.parameters(False), *module.buffers(False)] if t.is_floating_point()}
    return list(found.values())


def awkward_images(network: AwkwardNetwork, count: int, seed: int = 0) -> Tensor:
    """Standard normal images that an awkward network takes, of its type."""
    images = torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(seed))
    return images.to(network.head.weight.dtype)


def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that a network gives, in whatever they lie."""
    with torch.no_grad():
        return [leaf.clone() for leaf in tree_leaves(network(x.clone()))]


def apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference between outputs, relative to the largest value of each; infinite where shapes differ."""
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return float("inf")
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs)
