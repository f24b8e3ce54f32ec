"""Convert convolutional networks to Ghost modules, and say what it saves."""

__version__ = "0.1.0"

from .convert import convert
from .errors import ArgumentError, ArgumentTypeError, GhostifyError, UnsupportedModelError
from .modules import GhostModule, ReducedLinear
from .patterns import register_pattern
from .report import Report, report
from .zoo import create_model, list_models

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "GhostModule",
    "GhostifyError",
    "ReducedLinear",
    "Report",
    "UnsupportedModelError",
    "convert",
    "create_model",
    "list_models",
    "register_pattern",
    "report",
]
