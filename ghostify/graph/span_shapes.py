"""Where the channels of a value stand after an operation that moves, flattens, slices or averages its dimensions.

Each function takes a node, and what is known of the channels of its input; None where the operation may mix channels.
"""

import operator
from collections.abc import Sequence
from dataclasses import replace

from torch import fx, nn

from .operations import is_channelwise, is_pool, knows_places, mean_dims, mean_keeps_dims, operation_of
from .span_values import Value


def value_of_function(node: fx.Node, source: Value) -> Value | None:
    """The value of a function or method that reads one value."""
    kept = kept_value(node, None, source)
    if kept is not None or node.op not in ("call_function", "call_method"):
        return kept
    name = str(getattr(node.target, "__name__", node.target))
    arguments = list(node.args[1:])
    if name == "flatten":
        start = arguments[0] if arguments else node.kwargs.get("start_dim", 0)
        end = arguments[1] if len(arguments) > 1 else node.kwargs.get("end_dim", -1)
        return flattened(source, start, end)
    if name in ("view", "reshape"):
        of_batch = len(arguments) == 2 and arguments[1] == -1 and isinstance(arguments[0], fx.Node)
        return flattened(source, 1, -1) if of_batch else None
    if name in ("permute", "transpose"):
        return _moved(source, name, arguments)
    if node.target is operator.getitem:
        return _sliced(source, arguments[0])
    return _averaged(node, source)


def run_sizes(node: fx.Node, source: Value) -> list[int] | None:
    """The channels of each run that ``chunk`` or ``split`` cuts maps into; None where a node does something else."""
    name = str(getattr(node.target, "__name__", node.target))
    if node.op not in ("call_function", "call_method") or name not in ("chunk", "split", "split_with_sizes"):
        return None
    named = ("chunks", "split_size", "split_size_or_sections", "split_sizes")
    parts = node.args[1] if len(node.args) > 1 else next((node.kwargs[word] for word in named if word in node.kwargs), None)
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    of_channels = dim == 1 or (isinstance(dim, int) and source.dims is not None and dim + source.dims == 1)
    if source.axis == "last" or source.flat or not of_channels:
        return None
    if isinstance(parts, (list, tuple)):
        sizes = [size for size in parts if isinstance(size, int)]
        return sizes if len(sizes) == len(parts) and sum(sizes) == source.channels else None
    if not isinstance(parts, int):
        return None
    size = -(-source.channels // parts) if name == "chunk" else parts
    return [min(size, source.channels - start) for start in range(0, source.channels, size)]


def kept_value(node: fx.Node, module: nn.Module | None, source: Value) -> Value | None:
    """The value of an operation that takes each channel by itself, and all alike."""
    if not is_channelwise(node, module) and not operation_of(node, module).pads:
        return None
    if not knows_places(node, module):
        return source
    return source if source.axis == "second" and not source.flat and _names_places(node, module, source) else None


def flattened(source: Value, start: object, end: object) -> Value | None:
    """The value after some of its dimensions became one."""
    if source.axis == "only" or source.flat:
        return source if start in (1, -1) else None
    dims = source.dims
    if source.axis == "second" and start == 1 and (end == -1 or (dims is not None and end == dims - 1)):
        return Value(source.tracks, "only", flat=True)
    if dims is None or not isinstance(start, int) or not isinstance(end, int):
        return None
    gone = set(range(start % dims, end % dims + 1))
    return replace(source, places=dims - 1 - len(gone)) if source.place_dims({*gone}) is not None else None


def _names_places(node: fx.Node, module: nn.Module | None, source: Value) -> bool:
    """Whether the dimensions that a node names are places of maps."""
    if operation_of(node, module).pads:
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
        widths = given if module is None else module.padding
        return source.places is not None and isinstance(widths, (list, tuple)) and len(widths) <= 2 * source.places
    if module is None and is_pool(node, None) and (dims := mean_dims(node)) is not None:
        return source.places is not None and source.place_dims(dims) is not None
    return True


def _averaged(node: fx.Node, source: Value) -> Value | None:
    """The value of a mean over places, whose dimensions it may leave out."""
    dims = mean_dims(node)
    counted = source.place_dims(dims) if dims is not None and source.places is not None and not source.flat else None
    if counted is None:
        return None
    keeps = mean_keeps_dims(node)
    return source if keeps is True else source.without_places(len(counted)) if keeps is False else None


def _moved(source: Value, name: str, arguments: Sequence[object]) -> Value | None:
    """The value of a permutation that moves the channels from the second to the last dimension, or back."""
    dims = source.dims
    listed = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else arguments
    if dims is None or source.axis == "only" or not all(isinstance(dim, int) for dim in listed):
        return None
    order = [dim % dims for dim in listed if isinstance(dim, int)]
    if name == "transpose":
        if len(order) != 2:
            return None
        first, second = order
        order = [second if dim == first else first if dim == second else dim for dim in range(dims)]
    if source.axis == "second" and order == [0, *range(2, dims), 1]:
        return replace(source, axis="last")
    if source.axis == "last" and order == [0, dims - 1, *range(1, dims - 1)]:
        return replace(source, axis="second")
    return None


def _sliced(source: Value, index: object) -> Value | None:
    """The value of ``x[...]`` that leaves all channels in their dimension: slices of batch and places, new places."""
    parts = index if isinstance(index, tuple) else (index,)
    whole = slice(None)
    if source.flat or source.axis == "last":
        return None
    if source.axis == "only":
        spread = parts[:2] == (whole, whole) and set(parts[2:]) == {None}
        return Value(source.tracks, "second", len(parts) - 2) if spread else None
    if parts and parts[0] is Ellipsis:
        inner = parts[1:]
        return source if source.places is not None and len(inner) <= source.places and _are_slices(inner) else None
    return source if _are_slices(parts) and (len(parts) < 2 or _takes_all(parts[1], source.channels)) else None


def _are_slices(parts: tuple[object, ...]) -> bool:
    return all(isinstance(part, slice) for part in parts)


def _takes_all(part: object, channels: int) -> bool:
    """Whether a slice takes all channels, however many of them there are."""
    return isinstance(part, slice) and part.start in (None, 0) and part.step in (None, 1) and (
        part.stop is None or (isinstance(part.stop, int) and part.stop >= channels)
    )  # fmt: off
