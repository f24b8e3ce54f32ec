"""Convert convolutional networks to Ghost modules, and say what it saves."""

__version__ = "0.1.0"

from .calibrate import calibrate
from .calibration_report import CalibrationReport
from .convert import convert
from .errors import ArgumentError, ArgumentTypeError, GhostifyError, UnsupportedModelError
from .modules import GhostModule, ReducedLinear
from .norms import reestimate_norms
from .patterns import register_pattern
from .report import Report, report
from .zoo import create_model, list_models

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CalibrationReport",
    "GhostModule",
    "GhostifyError",
    "ReducedLinear",
    "Report",
    "UnsupportedModelError",
    "calibrate",
    "convert",
    "create_model",
    "list_models",
    "reestimate_norms",
    "register_pattern",
    "report",
]
