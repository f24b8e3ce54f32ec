"""What a conversion did to a network."""

from torch import nn

import ghostify
from ghostify import GhostModule


def ghosts(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, GhostModule)}


def reasons(student, example_input=None):
    return {row.name: row.reason for row in ghostify.report(student, example_input).rows}


def stack(*layers):
    """The layers behind a first convolution, which stays dense."""
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *layers)
