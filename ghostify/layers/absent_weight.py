"""What a layer that has no one weight answers where a network asks for the type or the device of its weight."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedModelError

TYPE_ATTRIBUTES = ("dtype", "device", "is_cuda", "layout")  # what is known of a weight without its values


def no_weight(name: str, owner: str) -> str:
    """The sentence for code that reads the weights of a layer that has no one weight."""
    return (
        f"a {owner} has no {name}: two layers compute what it gives. Code that reads or fuses the weights of "
        "layers takes a student of ghostify.convert(..., cheap='absorbed'), whose layers are plain ones"
    )


class AbsentWeight(Tensor):
    """A tensor that has a type, a device and a shape, and takes no memory; its values can't be read."""

    @staticmethod
    def like(weight: Tensor, shape: Sequence[int]) -> "AbsentWeight":
        """The absent weight of the type and on the device of another, with a shape of its own."""
        return weight.detach().new_empty(()).expand(*shape).as_subclass(AbsentWeight)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in _ASKED:
            raise UnsupportedModelError(no_weight("weight", "converted layer"))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


_ASKED = {
    *(getattr(Tensor, name).__get__ for name in (*TYPE_ATTRIBUTES, "shape", "ndim", "requires_grad", "is_meta")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
}
