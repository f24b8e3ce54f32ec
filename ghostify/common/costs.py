"""Parameters, FLOPs (multiply-adds) and activation memory of a model, from one forward pass without values.

FLOPs come from torch.utils.flop_counter, halved: it counts a multiply and an add as two. Convolutions, linear layers,
matrix products and attention count; norms, activations and pooling do not, as in the paper. ``fvcore_costs`` counts the same
with fvcore, which traces a model and so needs its values; a model on the meta device has none.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ArgumentError
from .buffers import kept_buffers
from .calls import PositionalArguments, evaluation_mode, forward_hooks
from .copying import copy_to_meta

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Costs:
    """What one forward pass takes.

    Attributes:
        flops: multiply-adds.
        activation_bytes: the most memory that intermediate tensors take up at any one time, in inference.
        positions: for each layer asked for, how many output positions it computes (a transposed convolution: how many input
            positions it reads), over all its calls.
        output: what the model returned, on the meta device where that was possible.
        outside: multiply-adds of convolutions, depthwise ones aside, that none of the layers asked for computes.
    """

    flops: int
    activation_bytes: int
    positions: dict[str, int]
    output: object
    outside: int = 0


def count_params(model: nn.Module) -> int:
    """How many numbers the parameters hold; a tensor that stands in several places counts once."""
    return sum(p.numel() for p in model.parameters())


def measure(model: nn.Module, arguments: PositionalArguments, layers: Sequence[str] = ()) -> Costs:
    """Run ``model`` once in evaluation mode on a copy without values, or on the CPU where its code needs values.

    Args:
        model: any module; it is not changed.
        arguments: of its forward.
        layers: qualified names of layers whose positions are wanted.

    Raises:
        ArgumentError: the model does not accept these arguments.
    """
    try:
        meta = tree_map_only(Tensor, lambda t: t.to("meta"), arguments)
        # torch's counter hooks into the gradients of parameters that modules take as arguments, such as CaiT's class token
        return _measure(copy_to_meta(model).eval().requires_grad_(False), meta, layers)
    except Exception as error:  # code of any kind runs here; some of it looks at values, which meta tensors don't have
        if any(p.is_meta for p in model.parameters()):
            raise _refused(model, arguments, error) from error
        log.debug("%s does not run on the meta device: %s", type(model).__name__, error)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluation_mode(model), kept_buffers(model), unfused_attention():
            return _measure(model, tree_map_only(Tensor, lambda t: t.to(device), arguments), layers)
    except Exception as error:  # the network's own code, on values this time
        raise _refused(model, arguments, error) from error


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Attention as matrix products while the block runs: fused kernels of the CPU do not show a counter what they compute."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _measure(model: nn.Module, arguments: PositionalArguments, layers: Sequence[str]) -> Costs:
    positions: dict[str, int] = {}
    counter, memory, outside = FlopCounterMode(display=False), _LiveMemory(), _OutsideOfLayers()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outside.depth -= 1
            if isinstance(module, nn.modules.conv._ConvTransposeNd):  # each input position is multiplied, not each output
                count = inputs[0].numel() // module.in_channels
            else:
                count = output.numel() // int(getattr(module, "out_channels", 0) or getattr(module, "out_features", 1))
            positions[name] = positions.get(name, 0) + count

        return hook

    def enter(module: nn.Module, inputs: object) -> None:
        outside.depth += 1

    modules = [model.get_submodule(name) for name in layers]
    after = zip(modules, map(note, layers), strict=True)
    with forward_hooks(before=((m, enter) for m in modules), after=after), torch.no_grad(), counter, memory, outside:
        output = model(*arguments)
    return Costs(counter.get_total_flops() // 2, memory.peak, positions, output, outside.flops)


class _OutsideOfLayers(TorchDispatchMode):
    """Adds up the multiply-adds of convolutions, depthwise ones aside, that are computed while no layer asked for runs.

    Attributes:
        depth: how many of those layers are running, one inside the other.
        flops: the sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.depth = self.flops = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: PositionalArguments = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if self.depth == 0 and func is torch.ops.aten.convolution.default:
            maps, weight, *_, transposed, _, groups = args
            depthwise = groups > 1 and groups in (weight.shape[0], weight.shape[1] * groups)
            counted = maps if transposed else result
            if not depthwise and isinstance(counted, Tensor):
                self.flops += counted.numel() // counted.shape[1] * weight.numel()
        return result


class _LiveMemory(TorchDispatchMode):
    """Adds up the storages that operations allocate, and takes each away again when its last tensor dies."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: PositionalArguments = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in before and storage not in self.seen:
                    self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self.seen.add(storage)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def _refused(model: nn.Module, arguments: PositionalArguments, error: Exception) -> ArgumentError:
    shapes = [tuple(t.shape) for t in tree_leaves(arguments) if isinstance(t, Tensor)]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    inputs = ", ".join(map(str, shapes)) or "no tensor"
    return ArgumentError(f"example_input ({inputs}) does not fit {type(model).__name__}: {lines[0]}")
