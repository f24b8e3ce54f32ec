"""Processes that a test may kill."""

import multiprocessing
from collections.abc import Callable


def forked(target: Callable[..., object], *args: object) -> multiprocessing.Process:
    """A process of its own that can be killed, from a server that has imported what is slow to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["accelerate", "ghostify", "matplotlib.pyplot", "pandas", "timm", "torchvision"])
    process = context.Process(target=target, args=args)
    process.start()
    return process
