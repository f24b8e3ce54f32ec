"""A sequence of batches that keeps in memory what fits, and the rest in a temporary folder."""

import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


class SpilledList(Collection[Any]):
    """Values by number, of which at most ``memory`` bytes stay in memory.

    Args:
        values: to begin with; anything that is made of tensors and plain data.
        memory: bytes.
    """

    def __init__(self, values: Iterable[Any] = (), memory: int = 1 << 29):
        self.memory, self.held, self.written = memory, 0, 0
        self.items: list[Any] = []
        self.folder: Path | None = None
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Any:
        item = self.items[index]
        # mapped, not read: most reads want a part of what a batch holds
        return torch.load(item, weights_only=False, mmap=True) if isinstance(item, Path) else item

    def append(self, value: Any) -> None:
        self.items.append(None)
        self[len(self.items) - 1] = value

    def __setitem__(self, index: int, value: Any) -> None:
        old = self.items[index]
        if isinstance(old, Path):
            with suppress(OSError):  # some systems keep a file that is still mapped; it goes with the folder
                old.unlink()
        elif old is not None:
            self.held -= _bytes(old)
        size = _bytes(value)
        if self.held + size <= self.memory:
            self.held += size
            self.items[index] = value
            return
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="ghostify-"))
        path = self.folder / f"{self.written}.pt"  # never one that stood there: a value that was read may still map it
        self.written += 1
        torch.save(tree_map_only(Tensor, _alone, value), path)
        self.items[index] = path

    def close(self) -> None:
        self.items.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __contains__(self, value: object) -> bool:
        return any(item is value for item in self)

    def __enter__(self) -> "SpilledList":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _alone(tensor: Tensor) -> Tensor:
    """A slice would be written with all of the tensor that it is a slice of."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size() else tensor


def _bytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(value) if isinstance(t, Tensor))
