"""Convert convolutional networks to Ghost modules, and say what it saves."""

__version__ = "0.1.0"

from .calibrate import calibrate
from .calibration_report import CalibrationReport
from .convert import convert
from .detection_evaluation import DetectionEvaluation
from .distill import distill
from .errors import ArgumentError, ArgumentTypeError, DivergedError, GhostifyError, UnsupportedModelError
from .evaluate import evaluate
from .evaluation import Evaluation
from .export import export
from .fold import FoldReport, fold
from .hub import HubStudent
from .latency import LatencyReport, latency
from .modules import GhostModule, ReducedLinear
from .norms import reestimate_norms
from .patterns import register_pattern
from .recovery_report import RecoveryReport
from .report import Report, report
from .sensitivity import sensitivity
from .sensitivity_result import Sensitivity
from .serialization import load, save
from .sweep import sweep
from .sweep_result import SweepResult
from .tasks import Task
from .training_recipe import Recipe
from .zoo import create_model, list_models

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
