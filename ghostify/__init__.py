"""Convert convolutional networks to Ghost modules, and say what it saves.

A name is imported when it is first asked for, so that ``import ghostify`` costs no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from . import old_names
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .calibration.calibrate import calibrate
    from .calibration.norms import reestimate_norms
    from .calibration.report import CalibrationReport
    from .compression.compress import compress
    from .compression.report import CompressionReport, CompressionResult
    from .conversion.convert import convert
    from .conversion.make_report import report
    from .conversion.report import Report
    from .conversion.sensitivity_table import Sensitivity
    from .deployment.export import export
    from .deployment.fold import fold
    from .deployment.fold_report import FoldReport
    from .deployment.latency import latency
    from .deployment.latency_report import LatencyReport
    from .distillation.distill import distill
    from .distillation.report import RecoveryReport
    from .distillation.training_recipe import Recipe
    from .errors import ArgumentError, ArgumentTypeError, DivergedError, GhostifyError, UnsupportedModelError
    from .exploration.sensitivity import sensitivity
    from .exploration.sweep import sweep
    from .exploration.sweep_result import SweepResult
    from .inputs.zoo import create_model, list_models
    from .layers.ghost_module import GhostModule
    from .layers.layer_classes import register_pattern
    from .layers.reduced_linear import ReducedLinear
    from .students.hub import HubStudent
    from .students.storage import load, save
    from .tasks.accuracy import Evaluation
    from .tasks.detection_precision import DetectionEvaluation
    from .tasks.evaluate import evaluate
    from .tasks.task import Task

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CalibrationReport",
    "CompressionReport",
    "CompressionResult",
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
    "compress",
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

_FILES = {  # with the names of these files: the public ones, and those that pickles of students name
    "calibration.calibrate": ("calibrate",),
    "calibration.norms": ("reestimate_norms",),
    "calibration.report": ("CalibrationReport",),
    "compression.compress": ("compress",),
    "compression.report": ("CompressionReport", "CompressionResult"),
    "conversion.report": ("Report",),
    "conversion.convert": ("convert",),
    "conversion.make_report": ("report",),
    "conversion.sensitivity_table": ("Sensitivity",),
    "deployment.export": ("export",),
    "deployment.fold": ("fold",),
    "deployment.fold_report": ("FoldReport", "FoldedPart"),
    "deployment.folded_ghost": ("FoldedGhost", "GhostMaps"),
    "deployment.latency": ("latency",),
    "deployment.latency_report": ("LatencyReport",),
    "deployment.parted_maps": ("PartedMaps",),
    "distillation.distill": ("distill",),
    "distillation.training_recipe": ("Recipe",),
    "distillation.report": ("RecoveryReport",),
    "errors": ("ArgumentError", "ArgumentTypeError", "DivergedError", "GhostifyError", "UnsupportedModelError"),
    "exploration.sensitivity": ("sensitivity",),
    "exploration.sweep": ("sweep",),
    "exploration.sweep_result": ("SweepResult",),
    "inputs.zoo": ("create_model", "list_models"),
    "layers.ghost_module": ("GhostModule", "take_channels"),
    "layers.layer_classes": ("register_pattern",),
    "layers.reduced_linear": ("ReducedLinear",),
    "students.hub": ("HubStudent",),
    "students.conversion_recipe": ("ConversionRecipe", "SiteRecord", "SpanRecord"),
    "students.storage": ("load", "save"),
    "tasks.accuracy": ("Evaluation",),
    "tasks.detection_precision": ("DetectionEvaluation",),
    "tasks.evaluate": ("evaluate",),
    "tasks.task": ("Task",),
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}
_MODULES = ("demo", "errors", "losses", "plots")


old_names.register()


if not TYPE_CHECKING:  # which would take any name at all for one of the package

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        if name not in _FILE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(import_module(f".{_FILE_OF[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
