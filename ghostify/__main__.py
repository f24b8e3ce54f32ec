"""``python -m ghostify``, for launchers that take a module."""

from .cli import main

main()
