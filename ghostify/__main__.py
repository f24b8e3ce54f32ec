"""``python -m ghostify``, for launchers that take a module."""

from .cli.app import main

main()
