"""The command that lists models."""

import json
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from ..errors import ArgumentError
from .options import Json


def zoo(
    pattern: Annotated[str, typer.Argument(help="Glob over names, such as '*resnet*'.")] = "*",
    as_json: Json = False,
) -> None:
    """List the models that can be named.

    Examples:

        ghostify zoo '*regnety*'

        ghostify zoo 'torchvision/*'
    """
    from ..inputs.zoo import list_models

    names = [name for name in list_models() if fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[2], pattern)]
    if not names:
        raise ArgumentError(f"no model is called like {pattern!r}")
    print(json.dumps(names) if as_json else "\n".join(names))
