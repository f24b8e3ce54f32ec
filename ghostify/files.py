"""Text files that are either there as a whole or not at all."""

import os
import tempfile
from pathlib import Path

from .errors import ArgumentError


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename.

    Raises:
        ArgumentError: the file can't be written; one that was there before is whole.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ArgumentError(f"{str(path)!r} can't be written: {error.strerror}") from error
