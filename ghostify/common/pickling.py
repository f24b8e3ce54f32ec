"""Names of classes and functions in pickles."""

from typing import TypeVar

T = TypeVar("T")


def named_by_package(thing: T) -> T:
    """Let pickles name a class or function ``ghostify.X``, whatever file it lies in: they load after the file has moved, too.

    The name has to be an attribute of ``ghostify``: its ``__init__`` lists the file.
    """
    thing.__module__ = "ghostify"
    return thing
