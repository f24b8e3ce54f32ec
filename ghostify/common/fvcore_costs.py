"""FLOPs counted by fvcore's handlers on a trace of the model with values, in place of torch's counter.

Both counters count each multiply-add of convolutions, linear layers and matrix products as one, so a figure means the same with
either.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ..errors import ArgumentError
from .calls import PositionalArguments
from .copying import copy_shared, on_meta
from .costs import Costs, measure, unfused_attention
from .fvcore_handlers import handlers

if TYPE_CHECKING:
    from fvcore.nn import FlopCountAnalysis


def measure_by_fvcore(model: nn.Module, arguments: PositionalArguments, layers: Sequence[str] = ()) -> Costs:
    """Run ``model`` in evaluation mode under torch's tracer and count what it did. Memory is measured as ``measure`` does.

    Args:
        model: any module with values; it is not changed.
        arguments: of its forward.
        layers: qualified names of layers whose positions are wanted: the multiply-adds of a layer over its weights.

    Raises:
        ArgumentError: the model or the input is on the meta device, does not accept these arguments, or can't be traced.
    """
    name = type(model).__name__
    if on_meta(model):
        raise ArgumentError(f"counter='fvcore' needs values to trace, and {name} is on the meta device: use counter='torch'")
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves(arguments)):
        raise ArgumentError("counter='fvcore' needs values to trace, and the input is on the meta device: use counter='torch'")
    costs = measure(model, arguments, layers)
    analysis = _analysis(model, arguments)
    try:
        with torch.no_grad(), unfused_attention():
            counts = analysis.by_module()
    except Exception as error:  # code of any kind is traced here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArgumentError(f"counter='fvcore' can't trace {name}, use counter='torch': {reason}") from error
    positions = {}
    for layer in layers:
        count = int(counts[analysis.canonical_module_name(f"model.{layer}")])
        positions[layer] = count // _weights(model.get_submodule(layer))
    return replace(costs, flops=int(counts[""]), positions=positions)


class _Flat(nn.Module):
    """A model whose arguments and results are tuples of tensors, which is what the tracer takes."""

    def __init__(self, model: nn.Module, arguments: PositionalArguments) -> None:
        super().__init__()
        self.model = model
        self.leaves, self.structure = tree_flatten(arguments)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        remaining = iter(tensors)
        leaves = [next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        outputs = tree_leaves(self.model(*tree_unflatten(leaves, self.structure)))
        return tuple(output for output in outputs if isinstance(output, Tensor))


def _analysis(model: nn.Module, arguments: PositionalArguments) -> "FlopCountAnalysis":
    """An analysis of a copy of the modules, since fvcore leaves its hooks on modules that it can't trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit.script, which fvcore calls as it is imported
        from fvcore.nn import FlopCountAnalysis

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    tensors = tuple(leaf.to(device) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor))
    analysis = FlopCountAnalysis(_Flat(copy_shared(model), arguments).eval(), tensors)
    analysis.clear_op_handles().set_op_handle(**handlers())
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")


def _weights(layer: nn.Module) -> int:
    """The weights of the convolutions and linear layers in a layer, which are its multiply-adds for each position."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return sum(module.weight.numel() for module in layer.modules() if isinstance(module, kinds))
