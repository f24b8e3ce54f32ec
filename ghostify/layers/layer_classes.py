"""The table of layer types that ghostify understands, and how to keep only some output channels of each."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..common.copying import deep_copy
from ..errors import ArgumentError, ArgumentTypeError
from .tap_index import multiplies_patches

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T", bound=Tensor)

Kind = Literal["conv", "norm", "activation", "pool"]  # a pool: with values for each channel, which users can't register


class Pattern(NamedTuple):
    """What a layer type is, and how to keep only some of its output channels."""

    kind: Kind
    narrow: Callable[[nn.Module, Tensor], nn.Module]


def register_pattern(
    module_type: type[nn.Module],
    kind: Literal["conv", "norm", "activation"],
    *,
    narrow: Callable[[nn.Module, Tensor], nn.Module] | None = None,
) -> None:
    """Teach ghostify a convolution, norm or activation class of your own.

    Args:
        module_type: the class; its subclasses follow it unless they are registered themselves.
        kind: ``"conv"`` (needs ``in_channels``, ``out_channels``, ``kernel_size``, ``stride``, ``groups`` and a ``weight`` of
            shape (out_channels, in_channels / groups, *kernel_size)), ``"norm"`` (treats every channel by itself) or
            ``"activation"`` (element by element).
        narrow: ``narrow(module, channels)`` returns a new module that computes only these output channels (a tensor of
            indices, in this order). The default slices each parameter and buffer whose first dimension is the number
            of channels and corrects ``out_channels`` / ``num_features``; it suits most classes.

    Raises:
        ArgumentTypeError: ``module_type`` is no module class.
        ArgumentError: ``kind`` is none of the three.

    Example:
        >>> class ScaledConv(nn.Conv2d):
        ...     def __init__(self, *args, **kwargs):
        ...         super().__init__(*args, **kwargs)
        ...         self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1))
        ...     def forward(self, x):
        ...         return super().forward(x) * self.gain
        >>> ghostify.register_pattern(ScaledConv, "conv")
    """
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise ArgumentTypeError(f"module_type must be a subclass of torch.nn.Module, not {module_type!r}")
    if kind not in ("conv", "norm", "activation"):
        raise ArgumentError(f"kind must be 'conv', 'norm' or 'activation', not {kind!r}")
    _TABLE[module_type] = Pattern(kind, narrow or narrow_channels)


def narrow(layer: M, channels: Tensor) -> M:
    """A layer that gives only these output channels, in this order.

    Raises:
        ArgumentError: the layer's class is in no pattern, or a parameter of it is in the way.
    """
    pattern = lookup(layer)
    if pattern is None:
        raise ArgumentError(f"{type(layer).__name__} is in no pattern; ghostify.register_pattern adds it")
    return cast(M, pattern.narrow(layer, channels))


def narrow_channels(module: nn.Module, channels: Tensor) -> nn.Module:
    """A copy of ``module`` with only these output channels: padding, stride, subclass behaviour and flags survive.

    Raises:
        ArgumentError: a parameter that is neither per channel nor a single number.
    """
    total = channel_count(module)
    memo: dict[int, object] = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        of_one_channel = total == 1 and tensor.dim() > 0 and not hasattr(module, "num_parameters")
        if tensor.numel() == 1 and not of_one_channel:  # one number for all channels
            continue
        if tensor.shape[0] == total:
            memo[id(tensor)] = take(tensor, channels)
        else:
            raise ArgumentError(f"its {name} of shape {tuple(tensor.shape)} is not per output channel")
    narrowed = deep_copy(module, memo)
    for part in narrowed.modules():
        for attribute in _COUNTS:
            if total is not None and vars(part).get(attribute) == total:
                setattr(part, attribute, len(channels))
    return narrowed


def channel_count(module: nn.Module) -> int | None:
    """The number of output channels, by the module's attributes or else by its first tensor."""
    return next((count for a in _COUNTS if (count := getattr(module, a, None)) is not None), None) or next(
        (t.shape[0] for t in [*module.parameters(), *module.buffers()] if t.dim()), None
    )


def take(tensor: T, index: Tensor, dim: int = 0) -> T:
    """Rows of ``tensor``, or slices of another dimension, as a tensor of the same kind: parameter or buffer, memory format,
    requires_grad."""
    rows = tensor.detach().index_select(dim, index.to(tensor.device))
    for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.dim() == dims and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=layout):
            rows = rows.contiguous(memory_format=layout)
    return cast(T, nn.Parameter(rows, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else rows)


def _narrow_blur(module: nn.Module, channels: Tensor) -> nn.Module:
    """timm's BlurPool2d, a fixed depthwise convolution, keeps its number of channels under a name of its own."""
    narrowed = narrow_channels(module, channels)
    vars(narrowed)["channels"] = len(channels)
    return narrowed


_COUNTS = ("out_channels", "num_features", "num_parameters")


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


_NORMS: tuple[type | str, ...] = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    # by name where torch has no part in it: importing timm takes seconds, and a model without it doesn't need it
    *("torchvision.ops.misc.FrozenBatchNorm2d", "timm.layers.norm_act.FrozenBatchNormAct2d"),
)


_ACTIVATIONS: tuple[type | str, ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
    *(nn.Threshold, nn.Hardshrink, nn.Softshrink, nn.Tanhshrink),
    *(
        f"timm.layers.activations.{name}"
        for name in (
            *("Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "HardMish", "GELU", "GELUTanh"),
            "QuickGELU",
        )
    ),
    *(f"timm.layers.activations_me.{name}" for name in ("SwishMe", "MishMe", "HardSwishMe", "HardSigmoidMe", "HardMishMe")),
)


_TABLE: dict[type | str, Pattern] = {
    **{key: Pattern("conv", narrow_channels) for key in _CONVS},
    **{key: Pattern("norm", narrow_channels) for key in _NORMS},
    **{key: Pattern("activation", narrow_channels) for key in _ACTIVATIONS},
    "timm.layers.blur_pool.BlurPool2d": Pattern("pool", _narrow_blur),
}


def lookup(module: nn.Module) -> Pattern | None:
    """The table's entry for the class of ``module`` or the nearest of its base classes."""
    for cls in type(module).__mro__:
        pattern = _TABLE.get(cls) or _TABLE.get(f"{cls.__module__}.{cls.__qualname__}")
        if pattern:
            return pattern
    return None


def is_kind(module: nn.Module | None, kind: Kind) -> bool:
    """Whether the class of a module is registered as a convolution, a norm or an activation."""
    pattern = lookup(module) if module is not None else None
    return pattern is not None and pattern.kind == kind


def is_plain(layer: nn.Module) -> bool:
    """Whether the layer is its weight and bias, and nothing else acts on them; subclasses may pad as they like."""
    if "weight" not in layer._parameters:
        return False
    if type(layer) is nn.Linear or any(_computes_as(layer, base) for base in _CONVS):
        return True
    return isinstance(layer, _CONVS) and multiplies_patches(layer)


def _computes_as(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether the class of a layer has all the methods by which a class of torch's convolutions computes."""
    methods = ("__call__", "forward", "_conv_forward", "__getattr__", "__getattribute__")
    return isinstance(layer, base) and all(getattr(type(layer), name) is getattr(base, name) for name in methods)
