"""What follows a layer that reads maps: the norm that may take a shift of its outputs, and the output of its block."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ..graph.functions_as_modules import activation_of_function
from ..graph.operations import called_module, is_identity_in_evaluation
from ..graph.sums import find_sum
from ..graph.usage import Usage
from ..layers.convolution import filters_of
from ..layers.layer_classes import is_kind
from ..layers.norm_affine import affine_of
from .network_walk import Place


@dataclass(frozen=True)
class ReaderOutput:
    """Attributes:
    norm: qualified name of the norm behind the layer that takes a shift of the layer's outputs; None where there is none.
    scale: (channels,) by which that norm multiplies the outputs, float64; 1 where there is none.
    block: node of the output of the layer's block: the sum of branch and shortcut after its activation where there is one, else
        the layer's own output, after norm and activation.
    """

    norm: str | None
    scale: Tensor
    block: fx.Node


def output_of(place: Place, usage: Usage) -> ReaderOutput:
    """What follows a layer.

    Args:
        place: the call of the layer.
        usage: of the modules of the network.
    """
    weight = filters_of(usage.modules[place.name])
    channels = len(weight)
    one = torch.ones(channels, dtype=torch.float64, device=weight.device)
    modules = dict(place.run.root.named_modules(remove_duplicate=False))
    norm_node = _only_user(place.node, modules)
    norm = called_module(norm_node, modules) if norm_node is not None else None
    if norm_node is None or not is_kind(norm, "norm"):
        return ReaderOutput(None, one, _block(place.node, place.node, modules, None))
    name = place.part.qualified(str(norm_node.target))
    affine = affine_of(norm, channels, one)
    if affine is None:  # what it does depends on the image
        return ReaderOutput(None, one, place.node)
    block = _block(place.node, norm_node, modules, str(norm_node.target))
    return ReaderOutput(name if usage.is_owned(name) else None, affine.scale, block)


def variance_of(values: Iterable[Tensor], channels: int, last: bool) -> float:
    """The variance of maps over images and places, summed over channels.

    Args:
        values: maps of each batch.
        channels: how many the maps have.
        last: whether channels are the last dimension, of two that could be.
    """
    count = 0
    mean = square = torch.zeros(channels, dtype=torch.float64)
    for maps in values:
        if not maps.numel():
            continue
        other = maps.dim() > 2 and maps.shape[1] == channels and not last
        rows = maps.movedim(1 if other or maps.shape[-1] != channels else -1, 0).flatten(1)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        variance, centre = (t.double().cpu() for t in torch.var_mean(rows, 1, correction=0))
        total = count + rows.shape[1]
        apart = centre - mean
        square = square + variance * rows.shape[1] + apart.square() * count * rows.shape[1] / total
        mean = mean + apart * rows.shape[1] / total
        count = total
    return float(square.sum()) / max(1, count)


def _block(node: fx.Node, last: fx.Node, modules: dict[str, nn.Module], norm: str | None) -> fx.Node:
    """The output of the block; ``last`` is the norm of the layer that ``node`` calls, or ``node`` itself."""
    found = find_sum(node, modules, norm)
    last = last if found is None else found.node
    user = _only_user(last, modules)
    if user is None:
        return last
    module = called_module(user, modules)
    is_activation = is_kind(module, "activation") if module is not None else activation_of_function(user) is not None
    return user if is_activation else last


def _only_user(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The single user of a node's value, past what changes nothing in evaluation; None where there are several."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op not in ("call_module", "call_function") or not is_identity_in_evaluation(node, called_module(node, modules)):
            return node
    return None
