"""Convert convolutional networks to Ghost modules, and say what it saves."""

from .calibration.calibrate import calibrate
from .calibration.norms import reestimate_norms
from .calibration.report import CalibrationReport
from .conversion.conversion_report import Report
from .conversion.convert import convert
from .conversion.report import report
from .conversion.sensitivity_table import Sensitivity
from .deployment.export import export
from .deployment.fold import fold
from .deployment.fold_report import FoldReport
from .deployment.latency import latency
from .deployment.latency_report import LatencyReport
from .distillation.distill import distill
from .distillation.recipe import Recipe
from .distillation.report import RecoveryReport
from .errors import ArgumentError, ArgumentTypeError, DivergedError, GhostifyError, UnsupportedModelError
from .exploration.sensitivity import sensitivity
from .exploration.sweep import sweep
from .exploration.sweep_result import SweepResult
from .inputs.zoo import create_model, list_models
from .layers.ghost_module import GhostModule
from .layers.patterns import register_pattern
from .layers.reduced_linear import ReducedLinear
from .students.hub import HubStudent
from .students.storage import load, save
from .tasks.accuracy import Evaluation
from .tasks.detection_precision import DetectionEvaluation
from .tasks.evaluate import evaluate
from .tasks.task import Task
from .version import __version__ as __version__

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CalibrationReport",
    "DetectionEvaluation",
    "DivergedError",
    "Evaluation",
    "FoldReport",
    "GhostModule",
    "GhostifyError",
    "HubStudent",
    "LatencyReport",
    "Recipe",
    "RecoveryReport",
    "ReducedLinear",
    "Report",
    "Sensitivity",
    "SweepResult",
    "Task",
    "UnsupportedModelError",
    "calibrate",
    "convert",
    "create_model",
    "distill",
    "evaluate",
    "export",
    "fold",
    "latency",
    "list_models",
    "load",
    "reestimate_norms",
    "register_pattern",
    "report",
    "save",
    "sensitivity",
    "sweep",
]
