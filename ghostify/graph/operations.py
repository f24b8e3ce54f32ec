"""What operations do to the channels of their inputs: one table, and the questions that are asked of it.

An operation is the class of a module (its subclasses follow it), a function, or the name of a method of tensors. To teach
ghostify one more, add it to :data:`OPERATIONS`. Convolutions, norms and activation modules do not stand there: users register
classes of their own, in :mod:`ghostify.layers.layer_classes`, and the questions below know both.

Every question takes a node of a graph and the module that the node calls, or None where it calls no module.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import is_kind, is_plain, lookup


@dataclass(frozen=True)
class Operation:
    """What an operation does to the channels of its inputs; the default is an operation that nothing is known of.

    Attributes:
        channelwise: it takes each channel by itself, and all alike.
        pools: it takes several places together.
        sized: the maps that it gives have the size ``output_size``, its argument or attribute.
        starts_gate: with an ``output_size`` of 1 it begins a squeeze-and-excitation gate, whose parts can be had for nothing.
        keeps_pooled: of 1x1 maps it makes 1x1 maps.
        pads: it pads dimensions, from the last one on.
        resizes: it gives maps of another size.
        combines: it combines two values channel by channel.
        adds: it combines two values by adding them.
        multiplies: it combines two values by multiplying them.
        joins: it concatenates values.
        tells_size: it gives a size and no values.
        idle: in evaluation mode it gives its input as it is.
        training_at: the position of its argument ``training``, without which it is not idle; None for a keyword alone.
        before_sum: it may stand between a convolution and the sum that the convolution's maps enter.
        changes_input: it changes its first input in place.
        activation: the class of the module of the same effect. Further arguments of the call go to its constructor by name.
    """

    channelwise: bool = False
    pools: bool = False
    sized: bool = False
    starts_gate: bool = False
    keeps_pooled: bool = False
    pads: bool = False
    resizes: bool = False
    combines: bool = False
    adds: bool = False
    multiplies: bool = False
    joins: bool = False
    tells_size: bool = False
    idle: bool = False
    training_at: int | None = None
    before_sum: bool = False
    changes_input: bool = False
    activation: type[nn.Module] | None = None


Key = type[nn.Module] | Callable[..., object] | str


def _each(operation: Operation, *keys: Key) -> dict[Key, Operation]:
    """One entry for several operations of the same effect."""
    return dict.fromkeys(keys, operation)


def _activation(module_class: type[nn.Module], *keys: Key) -> dict[Key, Operation]:
    """Functions and methods that compute what a module of this class computes."""
    return dict.fromkeys(keys, Operation(channelwise=True, activation=module_class))


_UNKNOWN = Operation()
_KEEPS = Operation(channelwise=True)
_POOL = Operation(channelwise=True, pools=True)
_DROPOUT = Operation(channelwise=True, idle=True, before_sum=True)
_PAIR = Operation(combines=True)
_SUM = Operation(combines=True, adds=True)
_PRODUCT = Operation(combines=True, multiplies=True)

OPERATIONS: dict[Key, Operation] = {
    # modules
    **_each(_POOL, _MaxPoolNd, _AvgPoolNd, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd),
    **_each(replace(_POOL, sized=True), nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d),
    **_each(replace(_POOL, sized=True, starts_gate=True), nn.AdaptiveAvgPool2d),
    **_each(replace(_KEEPS, resizes=True), nn.Upsample, F.interpolate),
    **_each(replace(_KEEPS, pads=True), _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd),
    **_each(_DROPOUT, _DropoutNd),
    **_each(replace(_DROPOUT, keeps_pooled=True), nn.Identity, nn.Dropout),
    # functions and methods that take each channel by itself
    **_each(_POOL, F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    **_each(replace(_POOL, sized=True), F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    **_each(Operation(sized=True), F.adaptive_avg_pool1d, F.adaptive_avg_pool3d),
    **_each(_KEEPS, torch.clone, torch.clamp, torch.exp, torch.abs, torch.square, torch.sqrt, torch.rsqrt, operator.neg),
    **_each(_KEEPS, "contiguous", "clone", "clamp", "clamp_", "float", "half", "to", "abs", "square", "sqrt", "rsqrt"),
    **_each(Operation(pads=True), F.pad),
    **_each(replace(_DROPOUT, training_at=2), F.dropout),
    **_each(replace(_DROPOUT, training_at=2, before_sum=False), F.dropout2d),
    **_each(Operation(idle=True, training_at=2), F.alpha_dropout),
    # activations
    **_activation(nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
    **_activation(nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"),
    **_activation(nn.Tanh, F.tanh, torch.tanh, "tanh"),
    **_each(Operation(activation=nn.Tanh), "tanh_"),
    **_activation(nn.ReLU6, F.relu6),
    **_activation(nn.LeakyReLU, F.leaky_relu),
    **_activation(nn.ELU, F.elu),
    **_activation(nn.GELU, F.gelu),
    **_activation(nn.SiLU, F.silu),
    **_activation(nn.Mish, F.mish),
    **_activation(nn.Hardswish, F.hardswish),
    **_activation(nn.Hardsigmoid, F.hardsigmoid),
    **_activation(nn.Hardtanh, F.hardtanh),
    **_activation(nn.Softplus, F.softplus),
    # two values
    **_each(_SUM, operator.add, torch.add, "add", "add_"),
    **_each(replace(_SUM, changes_input=True), operator.iadd),
    **_each(_PRODUCT, operator.mul, torch.mul, "mul", "mul_"),
    **_each(replace(_PRODUCT, changes_input=True), operator.imul),
    **_each(_PAIR, operator.sub, operator.truediv, torch.sub, torch.div, torch.maximum, torch.minimum),
    **_each(_PAIR, operator.pow, torch.pow),
    **_each(_PAIR, "sub", "sub_", "div", "div_", "pow"),
    **_each(replace(_PAIR, changes_input=True), operator.isub),
    **_each(Operation(changes_input=True), operator.itruediv),
    # values joined, and sizes
    **_each(Operation(joins=True), torch.cat, torch.concat),
    **_each(Operation(tells_size=True), "size", "dim", "numel"),
}

# classes and functions of other packages, by their names: importing those packages takes seconds
_DROPS_SAMPLES = Operation(channelwise=True, idle=True)
MODULES_BY_NAME = {"DropPath": _DROPS_SAMPLES, "StochasticDepth": _DROPS_SAMPLES}
FUNCTIONS_BY_NAME = {"dropout": Operation(before_sum=True), "stochastic_depth": replace(_DROPS_SAMPLES, before_sum=True)}


def operation_of(node: fx.Node, module: nn.Module | None) -> Operation:
    """The table's entry for what a node does."""
    if module is not None:
        listed = (OPERATIONS[cls] for cls in type(module).__mro__ if cls in OPERATIONS)
        return next(listed, MODULES_BY_NAME.get(type(module).__name__, _UNKNOWN))
    if node.op == "call_method":
        return OPERATIONS.get(node.target, _UNKNOWN)
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        return OPERATIONS.get(node.target) or FUNCTIONS_BY_NAME.get(name, _UNKNOWN)
    return _UNKNOWN


def called_module(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls, if it calls one; ``modules`` by the targets of the graph."""
    return modules[str(node.target)] if node.op == "call_module" else None


def is_channelwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node takes each channel by itself, and all alike."""
    operation = operation_of(node, module)
    if module is not None:
        keeps = operation.channelwise and not getattr(module, "return_indices", False)
        return keeps or (is_kind(module, "activation") and not has_values_per_channel(module))
    if operation.channelwise:
        return node.kwargs.get("return_indices") is not True
    if operation.pads:
        widths = node.args[1] if len(node.args) > 1 else None
        return isinstance(widths, (list, tuple)) and len(widths) <= 4  # the last two dimensions, which are places
    return is_mean_over_places(node)


def is_carrier(module: nn.Module) -> bool:
    """Whether a module takes each channel by itself and has values for each: a norm, a depthwise convolution, a PReLU,
    a BlurPool2d."""
    if is_kind(module, "pool"):
        return module.channels is not None
    if is_kind(module, "norm"):
        return not has_values_per_channel(getattr(module, "act", None))
    if isinstance(module, nn.modules.conv._ConvNd):
        return is_plain(module) and 1 < module.groups == module.in_channels == module.out_channels
    return is_kind(module, "activation") and has_values_per_channel(module)


def has_values_per_channel(module: object) -> bool:
    """Whether an activation has parameters of more than one value."""
    return isinstance(module, nn.Module) and any(parameter.numel() > 1 for parameter in module.parameters())


def is_pool(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node takes several places of each channel together."""
    operation = operation_of(node, module)
    return (operation.channelwise and operation.pools) or (module is None and is_mean_over_places(node))


def knows_places(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node tells the dimensions of places from that of the channels, as pools do and activations do not."""
    operation = operation_of(node, module)
    return operation.pads or operation.resizes or is_pool(node, module)


def is_mean_over_places(node: fx.Node) -> bool:
    """Whether the node is a mean over places, one or more of their dimensions, that keeps the number of dimensions."""
    dims = _averaged_dims(node)
    return dims is not None and dims <= {2, 3, 4, -1, -2}


def is_global_pool(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node makes 1x1 maps of maps of any size."""
    if operation_of(node, module).sized:
        if module is not None:
            size: object = module.output_size
        else:
            size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
        return all(length == 1 for length in (size if isinstance(size, (tuple, list)) else (size,)))
    return module is None and _averaged_dims(node) in ({2, 3}, {-1, -2}, {2, 3, 4})


def starts_gate(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node begins a squeeze-and-excitation gate: a pool over all places, or a mean."""
    if module is None:
        return is_mean_over_places(node)
    return operation_of(node, module).starts_gate and module.output_size in (1, (1, 1))


def keeps_pooled(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node makes 1x1 maps of 1x1 maps, as any convolution, norm, activation or dropout does."""
    operation = operation_of(node, module)
    if module is None:
        return operation.activation is not None
    return operation.keeps_pooled or isinstance(module, GhostModule) or lookup(module) is not None


def is_pair(node: fx.Node) -> bool:
    """Whether the node combines two values channel by channel, as sums and products do."""
    return node.op in ("call_function", "call_method") and operation_of(node, None).combines


def is_product(node: fx.Node) -> bool:
    """Whether the node multiplies two values, channel by channel."""
    return is_pair(node) and operation_of(node, None).multiplies


def is_sum(node: fx.Node) -> bool:
    """Whether the node adds two values, and nothing else, such as a factor."""
    return is_pair(node) and operation_of(node, None).adds and not node.kwargs and len(node.args) == 2


def is_concatenation(node: fx.Node) -> bool:
    """Whether the node concatenates values along their channels."""
    if node.op != "call_function" or not operation_of(node, None).joins:
        return False
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    values = node.args[0] if isinstance(node.args[0], (list, tuple)) else [None]
    return bool(dim == 1) and all(isinstance(value, fx.Node) for value in values)


def joined_values(concatenation: fx.Node) -> list[fx.Node]:
    """The values that a concatenation joins, in order; one of them may stand there more than once."""
    values = concatenation.args[0]
    assert isinstance(values, (list, tuple))
    return [value for value in values if isinstance(value, fx.Node)]


def is_size(node: fx.Node) -> bool:
    """Whether the node asks for a size, or a type, and leaves the values alone."""
    if node.op == "call_function":
        return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
    return node.op == "call_method" and operation_of(node, None).tells_size


def is_identity_in_evaluation(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node gives its input as it is in evaluation mode, as dropout and stochastic depth do."""
    operation = operation_of(node, module)
    if module is not None or not operation.idle:
        return operation.idle
    position = operation.training_at
    given_by_position = position is not None and len(node.args) > position
    training = node.args[position] if given_by_position else node.kwargs.get("training", True)  # type: ignore[index]
    return training is False


def leads_to_sum(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node may stand between a convolution and the sum that its maps enter: it changes nothing in evaluation."""
    return operation_of(node, module).before_sum


def changes_input(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the node changes its first input in place."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(getattr(node.target, "__name__", node.target))
    by_name = name.endswith("_") and not name.endswith("__")  # as all such operations of torch are called
    return by_name or operation_of(node, None).changes_input or node.kwargs.get("inplace") is True


_MEANS = (torch.mean, "mean", torch.amax, "amax", torch.amin, "amin")


def mean_dims(node: fx.Node) -> set[object] | None:
    """The dimensions over which a node takes the mean, or the extreme; None where it takes none, or names no dimensions."""
    if node.op not in ("call_function", "call_method") or node.target not in _MEANS:
        return None
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if isinstance(dims, int):
        return {dims}
    return {*dims} if isinstance(dims, (tuple, list)) else None


def mean_keeps_dims(node: fx.Node) -> object:
    """Whether a mean leaves dimensions of one: the argument as the network gives it."""
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)


def _averaged_dims(node: fx.Node) -> set[object] | None:
    """The dimensions over which a node takes the mean, where they are listed and leave dimensions of one."""
    listed = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return mean_dims(node) if isinstance(listed, (tuple, list)) and mean_keeps_dims(node) is True else None


def name_of(node: fx.Node) -> str:
    """What a node calls, in words."""
    return str(node.target) if node.op == "call_module" else str(getattr(node.target, "__name__", node.target))


def place_of(node: fx.Node, part: str = "") -> str:
    """What a node calls and, of a function, the module whose code calls it, such as ``"softmax of blocks.0.attn"``.

    Args:
        node: of a graph.
        part: the qualified name of the part that the graph is of, with which names of modules begin.
    """
    around = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
    target = str(node.target) if node.op == "call_module" else around[-1] if around else ""
    name = ".".join(word for word in (part, target) if word)
    return name if node.op == "call_module" else f"{name_of(node)} of {name}" if name else name_of(node)
