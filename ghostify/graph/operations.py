"""What an operation does to the channels of its input, in one table."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..layers.patterns import is_kind, is_plain

POOLS: tuple[type, ...] = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip


_KEEP: tuple[type, ...] = (*POOLS, nn.Upsample, nn.Identity, nn.modules.dropout._DropoutNd)


_KEEP_FUNCTIONS = {
    F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, F.dropout, torch.clone,
    F.max_pool1d, F.avg_pool1d, F.max_pool3d, F.avg_pool3d, torch.clamp, torch.exp, torch.nn.functional.dropout2d,
}  # fmt: skip


_KEEP_METHODS = {"contiguous", "clone", "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "clamp", "clamp_", "float", "half"}


PAIRS = {
    operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv,
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
    "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_",
}  # fmt: skip


SHAPES = {"size", "dim", "numel"}


def is_carrier(module: Any) -> bool:
    """Whether it takes each channel by itself and has numbers for each."""
    if is_kind(module, "norm"):
        return not _has_parameters(getattr(module, "act", None))
    if isinstance(module, nn.modules.conv._ConvNd):
        return is_plain(module) and 1 < module.groups == module.in_channels == module.out_channels
    return is_kind(module, "activation") and _has_parameters(module)


def is_channelwise(node: fx.Node, modules: Mapping[str, Any]) -> bool:
    """Whether it takes each channel by itself, and all alike."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        plain = isinstance(module, _KEEP) and not getattr(module, "return_indices", False)
        return plain or (is_kind(module, "activation") and not _has_parameters(module))
    if node.op == "call_method" and node.target in _KEEP_METHODS:
        return True
    if node.op == "call_function" and (node.target in _KEEP_FUNCTIONS or is_activation_function(node)):
        return node.kwargs.get("return_indices") is not True
    if node.target is F.pad:  # of places
        return len(node.args) > 1 and isinstance(node.args[1], (list, tuple)) and len(node.args[1]) <= 4
    return is_mean_over_places(node)


def along_channels(cat: fx.Node) -> bool:
    dim = cat.args[1] if len(cat.args) > 1 else cat.kwargs.get("dim", 0)
    joined = cat.args[0] if isinstance(cat.args[0], (list, tuple)) else [None]
    return bool(dim == 1) and all(isinstance(one, fx.Node) for one in joined)


def joined_parts(cat: fx.Node) -> list[fx.Node]:
    """What a concatenation joins."""
    joined: Any = cat.args[0]
    return list(joined)


def is_mean_over_places(node: fx.Node) -> bool:
    """Whether it is a mean over places that leaves 1x1 maps."""
    if node.target not in (torch.mean, "mean"):
        return False
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim")
    return keep is True and isinstance(dims, (tuple, list)) and {*dims} <= {2, 3, 4, -1, -2}


def _has_parameters(module: Any) -> bool:
    """Numbers for each channel."""
    return isinstance(module, nn.Module) and any(p.numel() > 1 for p in module.parameters())


# activation functions, as the module of the same effect; further arguments of the call go to its constructor by name
ACTIVATION_FUNCTIONS: dict[Any, type[nn.Module]] = {
    **{F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, F.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU},
    **{F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU, F.gelu: nn.GELU, F.silu: nn.SiLU, F.mish: nn.Mish},
    **{F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid, F.hardtanh: nn.Hardtanh, F.softplus: nn.Softplus},
    **{F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid},
    **{F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, "tanh_": nn.Tanh},
}


def is_activation_function(node: fx.Node) -> bool:
    """Whether the node calls an activation, as a function or a method."""
    return node.op in ("call_function", "call_method") and node.target in ACTIVATION_FUNCTIONS


def activation_of_function(node: fx.Node) -> nn.Module | None:
    cls = ACTIVATION_FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if cls is None:
        return None
    names = [name for name in getattr(cls, "__constants__", ()) if name != "inplace"]
    arguments = dict(zip(names, node.args[1:], strict=False))
    arguments.update((k, v) for k, v in node.kwargs.items() if k in names)
    if any(isinstance(value, fx.Node) for value in arguments.values()):
        return None  # computed by the network itself: no module can stand for it
    return cls(**arguments)


def describe_function(act: nn.Module) -> dict[str, Any]:
    """The module that :func:`activation_of_function` made, as plain data."""
    settings = {name: getattr(act, name) for name in getattr(act, "__constants__", ()) if hasattr(act, name)}
    return {"class": type(act).__name__, **settings}


def function_described(told: Mapping[str, Any]) -> nn.Module:
    """The module that :func:`describe_function` described.

    Raises:
        KeyError, TypeError: it describes none that there is.
    """
    classes = {cls.__name__: cls for cls in ACTIVATION_FUNCTIONS.values()}
    settings = {name: value for name, value in told.items() if name != "class"}
    return classes[told["class"]](**settings)
