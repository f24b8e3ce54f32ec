"""Buffers that a network updates while it runs, such as counters of its calls: kept as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .copying import plain_tensors


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator["BuffersBefore"]:
    """Buffers, and tensors in plain attributes, are afterwards what they were, whatever ends the block.

    Args:
        model: a network whose forward passes may write into them.

    Yields:
        What they were.
    """
    before = BuffersBefore.of(model)
    try:
        yield before
    finally:
        before.restore()


@dataclass(frozen=True)
class BuffersBefore:
    """The buffers of a network at one time, and the tensors in its plain attributes.

    Attributes:
        places: the dictionaries of modules that hold such tensors, each with the module's name, and what they held.
        values: of each of these tensors, a copy.
    """

    places: list[tuple[str, dict[str, object], dict[str, Tensor]]]
    values: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model: nn.Module) -> "BuffersBefore":
        """Those that a network has now."""
        places: list[tuple[str, dict[str, object], dict[str, Tensor]]] = []
        for name, module in model.named_modules():
            if type(module._buffers) is dict:  # not that of a scripted module, which makes its tensors anew for each look
                own = {key: buffer for key, buffer in module._buffers.items() if buffer is not None}
                places.append((name, module._buffers, own))
                places.append((name, vars(module), plain_tensors(module)))
        tensors = {id(tensor): tensor for _, _, own in places for tensor in own.values()}
        tensors |= {id(buffer): buffer for buffer in model.buffers()}
        return cls(places, [(tensor, tensor.detach().clone()) for tensor in tensors.values() if _is_plain(tensor)])

    def changed(self) -> list[str]:
        """The qualified names of those that are no longer what they were."""
        written = {id(tensor) for tensor, values in self.values if not _is_same(tensor, values)}
        return [
            f"{name}.{key}" if name else key
            for name, place, own in self.places
            for key, tensor in own.items()
            if place.get(key) is not tensor or id(tensor) in written
        ]

    def restore(self) -> None:
        """Make them what they were; what has not changed is not written to."""
        for _, place, own in self.places:
            place.update({key: tensor for key, tensor in own.items() if place.get(key) is not tensor})
        for tensor, values in self.values:
            if not _is_same(tensor, values):
                with torch.inference_mode(tensor.is_inference()):
                    tensor.data.copy_(values)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has values of its own that can be copied and compared."""
    return type(tensor) is Tensor and tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized)


def _is_same(tensor: Tensor, values: Tensor) -> bool:
    """Whether a tensor has these values, bit by bit."""
    if tensor.shape != values.shape or tensor.dtype != values.dtype:
        return False
    return torch.equal(_bits(tensor), _bits(values))


def _bits(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg().flatten()
    return plain.clone(memory_format=torch.contiguous_format).view(torch.uint8)
