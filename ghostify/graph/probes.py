"""Calls of a network on inputs like a known one, by which its graphs are checked."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..common.calls import Arguments, PositionalArguments
from ..common.random_state import seeded

SEED = 0  # of the noise, and of whatever a network draws while it is run
BATCHES = (2, 3)  # images of the probes
CALLS = 4  # of a module that are looked at, where it is called more often

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A call of a module: the arguments of its forward method, and what that gives, both without the module's own hooks."""

    arguments: Arguments
    output: object


class Probes:
    """Calls of a network, of two images and of three others, and what modules inside are called with meanwhile.

    Values are those given with noise, or noise alone where those given are all alike. Where the network does not take another
    number of images, the probes have the number given, and where it takes none of them, there are none.

    Args:
        network: in evaluation mode, with its hooks. It is run only when something is asked for.
        arguments: that it takes; further ones, with images of other sizes, are calls of two images each.
        run: what runs the network with arguments; None to call it.

    Attributes:
        count: how many calls there are.
    """

    def __init__(self, network: nn.Module, arguments: Sequence[Arguments], run: Callable[[Arguments], object] | None = None):
        self.network = network
        self._call = run or self._plain_call
        self._kinds = [(arguments[0], images) for images in BATCHES] + [(other, BATCHES[0]) for other in arguments[1:]]
        self.count = len(self._kinds)
        self._calls: dict[tuple[int, str], list[Call]] = {}

    def calls(self, which: int, name: str, others: Collection[str] = ()) -> list[Call]:
        """How the module of this qualified name is called in one of the probes.

        Args:
            which: below :attr:`count`.
            name: of a module; others whose calls will be asked for, too, are noted in the same pass.
        """
        if (which, name) not in self._calls:
            self._calls |= {(which, other): [] for other in (name, *others)}
            arguments, images = self._kinds[which]
            if not self._run(which, arguments_like(arguments, images, SEED + which), (name, *others)):
                self._run(which, arguments_like(arguments, None, SEED + which), (name, *others))
        return self._calls[which, name]

    def _run(self, which: int, arguments: Arguments | None, names: Sequence[str]) -> bool:
        """Whether the network runs; then the calls are noted."""
        if arguments is None:
            return False
        listeners = {name: _Listener(self.network.get_submodule(name)) for name in dict.fromkeys(names)}
        try:
            self._call(arguments)
        except Exception:  # of any kind, from the network's own code
            return False
        finally:
            for listener in listeners.values():
                listener.close()
        self._calls |= {(which, name): listener.calls for name, listener in listeners.items()}
        return True

    def _plain_call(self, arguments: Arguments) -> None:
        args, kwargs = arguments
        with seeded(SEED), torch.no_grad():
            self.network(*args, **kwargs)


class _Listener:
    """Notes the calls of a module within its own hooks: arguments as the last hook before it gives them, and its very output.

    Args:
        module: whose calls are noted until :meth:`close`.

    Attributes:
        calls: the first few.
    """

    def __init__(self, module: nn.Module):
        self.calls: list[Call] = []
        self._begun: list[Arguments] = []
        self._handles = [
            module.register_forward_pre_hook(self._begin, with_kwargs=True),
            module.register_forward_hook(self._end, prepend=True),
        ]

    def _begin(self, module: nn.Module, args: PositionalArguments, kwargs: dict[str, object]) -> None:
        self._begun.append(copied((args, kwargs)))

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        arguments = self._begun.pop()
        if len(self.calls) < CALLS:
            self.calls.append(Call(arguments, copied(output)))

    def close(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()


def copied(value: T) -> T:
    """The same with tensors of their own: what runs on them may change them in place."""
    return tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, value)


def is_same(value: object, other: object) -> bool:
    """Whether two outputs hold the same tensors, up to rounding."""
    tensors, others = list(tensors_in(value)), list(tensors_in(other))
    return len(tensors) == len(others) and all(map(_is_close, tensors, others))


def _is_close(tensor: Tensor, other: Tensor) -> bool:
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    if not tensor.is_floating_point() or not tensor.numel():
        return torch.equal(tensor, other)
    tensor, other = tensor.double(), other.double()
    finite = other[other.isfinite()]
    scale = float(finite.detach().abs().max()) if finite.numel() else 0.0
    return torch.allclose(tensor, other, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)


def tensors_in(value: object, depth: int = 8) -> list[Tensor]:
    """The tensors of an output, in the order in which they lie in it."""
    if isinstance(value, Tensor):
        return [value]
    if depth == 0 or isinstance(value, (str, bytes, int, float, type)) or value is None:
        return []
    if isinstance(value, Mapping):
        inner: Sequence[object] = list(value.values())
    else:
        inner = value if isinstance(value, (list, tuple)) else list(getattr(value, "__dict__", {}).values())
    return [tensor for one in inner for tensor in tensors_in(one, depth - 1)]


def arguments_like(arguments: Arguments, images: int | None, seed: int) -> Arguments | None:
    """Arguments of another number of images, or None where it isn't known how many these are; ``images`` None: of the same."""
    first = next((t for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.dim()), None)
    in_lists = any(isinstance(value, (list, tuple)) for value in arguments[0])
    if images is not None and (first is None or not len(first) or in_lists):
        return None
    generator = torch.Generator("cpu").manual_seed(seed)

    def other(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        if images is not None and first is not None and value.dim() and len(value) == len(first):
            value = value[torch.arange(images, device=value.device) % len(value)]
        if not value.is_floating_point() or not value.numel():
            return value.clone()
        spread = float(value.float().std()) if value.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator, device="cpu").to(value)
        return value + 0.3 * spread * noise if spread > 0 else noise

    return tree_map(other, arguments)
