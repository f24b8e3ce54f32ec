"""Files that are written as a whole or not at all; settings read from YAML."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ArgumentError
from .text import first_line

PlainData = dict[str, Any]  # values by name, as JSON and YAML have them


@contextmanager
def replacing(path: Path) -> Iterator[str]:
    """Give the name of a temporary file, which takes the place of ``path`` after the block, or is removed if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; the file appears under its name only once it is complete.

    Raises:
        ArgumentError: the file can't be written; one that was there before is whole.
    """
    try:
        with replacing(path) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"{str(path)!r} can't be written: {error.strerror}") from error


def also_write(path: str | Path | None, text: str) -> str:
    """Return a text, and write it to a file where one is named.

    Raises:
        ArgumentError: the file can't be written; one that was there before is whole.
    """
    if path is not None:
        write_text(Path(path), text)
    return text


def read_settings(path: Path, what: str) -> PlainData:
    """The mapping in a YAML file.

    Args:
        path: of the file.
        what: the noun for the file in errors, such as ``"recipe"``.

    Raises:
        ArgumentError: no such file, no YAML, or no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ArgumentError(f"{what} {str(path)!r} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{what} {str(path)!r} is no YAML: {first_line(error)}") from error
    if not isinstance(values, Mapping):
        raise ArgumentError(f"{what} {str(path)!r} must be a mapping of settings to values")
    return dict(values)
