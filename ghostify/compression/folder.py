"""The folder of a compression: what is done stays done, whatever ends the process."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..common.files import PlainData, write_text
from ..errors import ArgumentError
from ..students.storage import load, save

log = logging.getLogger(__name__)


class CompressionFolder:
    """What the steps of a compression leave behind, in a folder or nowhere.

    Args:
        path: of the folder; None to keep nothing.
        header: plain data that tells this compression from others.

    Raises:
        ArgumentError: the folder holds another compression, or something else.
    """

    def __init__(self, path: Path | None, header: PlainData):
        self.path = path
        if path is None:
            return
        file = path / "compression.json"
        if path.is_file() or (
            path.is_dir() and not file.exists() and not all(_is_unfinished(other) for other in path.iterdir())
        ):
            raise ArgumentError(f"out {str(path)!r} is not a folder of a compression: choose an empty one")
        if not file.exists():
            write_text(file, json.dumps(header, indent=1) + "\n")
            return
        stored = _read(file)
        if stored is None:
            raise ArgumentError(f"out {str(path)!r} holds a compression.json that can't be read: choose another folder")
        for key, value in json.loads(json.dumps(header)).items():
            if stored.get(key) != value:
                raise ArgumentError(f"out {str(path)!r} holds another compression, with other {key}: choose another folder")

    def file(self, name: str) -> Path | None:
        """The path of a file in the folder; None without a folder."""
        return None if self.path is None else self.path / name

    def remembered(self, name: str, make: Callable[[], PlainData], fits: Callable[[PlainData], bool]) -> PlainData:
        """Plain data from a file, or else from ``make()``, which is written there once it is complete.

        Args:
            name: of the file, without its suffix.
            make: makes the data.
            fits: whether data of an earlier call are those that are wanted.
        """
        path = self.file(f"{name}.json")
        if path is not None and path.exists():
            stored = _read(path)
            if stored is not None and fits(stored):
                return stored
            log.warning("%s can't be used and is made anew", path)
        made: PlainData = json.loads(json.dumps(make()))  # the same whether it was read or made
        if path is not None:
            write_text(path, json.dumps(made, indent=1) + "\n")
        return made

    def keep(self, name: str, student: nn.Module) -> None:
        """Write a student, where there is a folder."""
        path = self.file(f"{name}.safetensors")
        if path is not None:
            save(student, path)

    def student(self, name: str, original: nn.Module) -> nn.Module:
        """The student that was written under a name."""
        path = self.file(f"{name}.safetensors")
        assert path is not None, "students without a folder are in memory"
        return load(path, original)


def _read(path: Path) -> PlainData | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _is_unfinished(path: Path) -> bool:
    """Whether a file is what a call leaves that ends before its first file is whole."""
    return path.name.startswith("compression.json") and path.suffix == ".part"
