"""Site: one place in a model where a Ghost module can stand."""

from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from ..layers.convolution import Convolution, WeightedLayer, as_convolution, as_weighted
from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import is_kind
from ..layers.reduced_linear import ReducedLinear

DEPTHWISE = "depthwise convolution"
TRANSPOSED = "transposed convolution"


@dataclass(frozen=True)
class Site:
    """A convolution (or fully connected layer), the norm after it if any, the activation after that if any.

    ``norm`` and ``act`` are named only where they belong to this site alone. ``act`` without ``act_name`` is a copy of an
    activation that stays where it is (a function, or a module with other users): intrinsic maps pass through it on their
    way into the cheap operation, and the whole output passes through the original afterwards.
    """

    name: str
    module: nn.Module  # of any registered class
    kind: Literal["conv", "linear"] = "conv"
    norm_name: str | None = None
    norm: nn.Module | None = None
    act_name: str | None = None
    act: nn.Module | None = None
    shared_act: str | None = None  # where ``act`` is a copy of a module: that module's name
    roles: frozenset[str] = frozenset()
    reason: str | None = None  # why the site can't be converted at all
    tells_type: bool = False  # whether the network asks for the type or the device of the layer's weight

    @property
    def conv(self) -> Convolution:
        """The layer of a site of kind ``"conv"``."""
        return as_convolution(self.module)

    @property
    def linear(self) -> nn.Linear:
        """The layer of a site of kind ``"linear"``."""
        return cast(nn.Linear, self.module)

    @property
    def weighted(self) -> WeightedLayer:
        """The layer of a site of either kind."""
        return as_weighted(self.module)

    @property
    def layers(self) -> str:
        """The pattern in words, such as ``Conv2d-BatchNorm2d-ReLU``."""
        return "-".join(type(m).__name__ for m in (self.module, self.norm, self.act) if m is not None)


def is_listed(module: nn.Module) -> bool:
    """Whether a module is a convolution or a fully connected layer, looks like one, or stands in the place of one."""
    known = isinstance(module, (GhostModule, ReducedLinear, nn.modules.conv._ConvNd)) or type(module) is nn.Linear
    return known or is_kind(module, "conv") or _looks_like_conv(module)


def _looks_like_conv(module: nn.Module) -> bool:
    """Whether the class is unknown and has Conv in its name, and the module has weights of its own and no children."""
    return (
        "conv" in type(module).__name__.lower()
        and next(module.children(), None) is None
        and (bool(module._parameters) or "quantized" in type(module).__module__)
    )
