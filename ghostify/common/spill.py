"""A list of batches that keeps in memory what fits, and the rest in a temporary folder."""

import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

T = TypeVar("T")


class SpilledList(Collection[T]):
    """A list of which at most ``memory`` bytes stay in memory; values that do not fit go to files, until :meth:`close`.

    Args:
        values: to begin with; anything that is made of tensors and plain data.
        memory: bytes of tensors, by default 512 MiB.

    Attributes:
        bytes_in_memory: of the values that are not in files.
        folder: of the files; None before there are any.
    """

    def __init__(self, values: Iterable[T] = (), memory: int = 1 << 29):
        self.memory = memory
        self.bytes_in_memory = 0
        self.folder: Path | None = None
        self._items: list[T | Path | None] = []  # values, or paths of files that hold them
        self._files_written = 0
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return (self[index] for index in range(len(self)))

    def __contains__(self, value: object) -> bool:
        return any(item is value for item in self)

    def __getitem__(self, index: int) -> T:
        item = self._items[index]
        # mapped, not read: most reads want a part of what a batch holds
        return torch.load(item, weights_only=False, mmap=True) if isinstance(item, Path) else cast(T, item)

    def __setitem__(self, index: int, value: T) -> None:
        self._forget(self._items[index])
        size = _bytes_of(value)
        if self.bytes_in_memory + size <= self.memory:
            self.bytes_in_memory += size
            self._items[index] = value
        else:
            self._items[index] = self._write(value)

    def append(self, value: T) -> None:
        self._items.append(None)
        self[len(self._items) - 1] = value

    def close(self) -> None:
        """Forget all values, and remove the files."""
        self._items.clear()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "SpilledList[T]":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _forget(self, item: T | Path | None) -> None:
        if isinstance(item, Path):
            with suppress(OSError):  # some systems keep a file that is still mapped; it goes with the folder
                item.unlink()
        elif item is not None:
            self.bytes_in_memory -= _bytes_of(item)

    def _write(self, value: object) -> Path:
        if self.folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="ghostify-"))
        path = self.folder / f"{self._files_written}.pt"  # never one that stood there: a value that was read may still map it
        self._files_written += 1
        torch.save(tree_map_only(Tensor, _without_rest, value), path)
        return path


def _without_rest(tensor: Tensor) -> Tensor:
    """The tensor alone: a slice would be written with all of the tensor that it is a slice of."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size() else tensor


def _bytes_of(value: object) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(value) if isinstance(t, Tensor))
