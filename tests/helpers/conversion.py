"""What a conversion did to a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from torch import nn

import ghostify
import ghostify.conversion.convert
from ghostify import GhostModule
from ghostify.common.copying import copy_to_meta
from ghostify.conversion.rehearsal import Rehearsal


def ghosts(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, GhostModule)}


def reasons(student, example_input=None):
    return {row.name: row.reason for row in ghostify.report(student, example_input).rows}


def stack(*layers):
    """The layers behind a first convolution, which stays dense."""
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *layers)


@contextmanager
def without_rehearsal() -> Iterator[None]:
    """Conversions take half of their time, for tests of something else with networks that are rehearsed elsewhere."""

    def of_nothing(network, *arguments):
        return Rehearsal(copy_to_meta(network), inplace=False)

    with patch.object(ghostify.conversion.convert, "Rehearsal", of_nothing):
        yield
