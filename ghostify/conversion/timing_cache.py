"""Times that are remembered on disk, so that no layer is timed twice on a machine."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..common.files import write_text
from ..errors import ArgumentError

log = logging.getLogger(__name__)


class TimingCache:
    """Seconds by what was timed, in a file that may be deleted at any time.

    The file is ``ghostify/latency.json`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``.

    Args:
        about: what all times depend on, such as machine, runtime and versions; plain data.
    """

    def __init__(self, about: Sequence[object]):
        self.about = about
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = folder / "ghostify" / "latency.json"

    def remembered(self, key: Sequence[object], measure: Callable[[], Sequence[float]]) -> Sequence[float]:
        """Seconds from the file, or else from ``measure()``, which are written there.

        Args:
            key: what is timed; plain data.
            measure: times it.
        """
        name = json.dumps([self.about, key])
        known = self._read()
        if name in known:
            return known[name]
        seconds = measure()
        try:
            write_text(self.path, json.dumps({**self._read(), name: list(seconds)}))
        except ArgumentError as error:
            log.warning("what was timed is forgotten: %s", error)
        return seconds

    def _read(self) -> dict[str, list[float]]:
        try:
            content = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s can't be read and is made anew: %s", self.path, error)
            return {}
        return content if isinstance(content, dict) else {}
