"""Modules of version 0.1.0 that its pickles name, such as ``ghostify.modules``: they have the names that pickles need.

A pickle holds the module that each class lies in. Version 0.1.0 wrote the modules it had then; from then on the classes in
students and folded networks are named as attributes of ``ghostify`` itself (see :mod:`ghostify.common.pickling`).
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES: dict[str, dict[str, str]] = {  # by the old module: names in its pickles, and where they are now
    "modules": {
        "GhostModule": "layers.ghost_module:GhostModule",
        "ReducedLinear": "layers.reduced_linear:ReducedLinear",
        "take_channels": "layers.ghost_module:take_channels",
    },
    "recipe": {
        "ConversionRecipe": "students.conversion_recipe:ConversionRecipe",
        "SiteRecord": "students.conversion_recipe:SiteRecord",
    },
    "fold": {"FoldReport": "deployment.fold_report:FoldReport", "FoldedPart": "deployment.fold_report:FoldedPart"},
    "folded": {"FoldedGhost": "deployment.folded_ghost:FoldedGhost", "GhostMaps": "deployment.folded_ghost:GhostMaps"},
    "joins": {"Joined": "deployment.parted_maps:PartedMaps"},
    "hub": {"HubStudent": "students.hub:HubStudent"},
    # reports, evaluations and settings
    "report": {name: f"conversion.report:{name}" for name in ("Report", "Row", "Total")},
    "calibration_report": {name: f"calibration.report:{name}" for name in ("CalibrationReport", "SiteResult")},
    "recovery_report": {name: f"distillation.report:{name}" for name in ("RecoveryReport", "EpochResult")},
    "latency": {name: f"deployment.latency_report:{name}" for name in ("LatencyReport", "Timing")},
    "sensitivity_result": {
        name: f"conversion.sensitivity_table:{name}" for name in ("Sensitivity", "SiteSensitivity", "Header")
    },
    "sweep_result": {"SweepResult": "exploration.sweep_result:SweepResult"},
    "trial": {"Result": "exploration.trial:TrialResult", "Trial": "exploration.trial:Trial"},
    "evaluation": {"Evaluation": "tasks.accuracy:Evaluation"},
    "detection_evaluation": {"DetectionEvaluation": "tasks.detection_precision:DetectionEvaluation"},
    "training_recipe": {"Recipe": "distillation.training_recipe:Recipe"},
}


class OldModule(ModuleType):
    """A module of which nothing is left but names that pickles ask for."""

    def __init__(self, name: str, names: dict[str, str]):
        super().__init__(name, "A module of version 0.1.0, which pickles of that version name.")
        self._names = names
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        file, _, now = self._names[name].partition(":")
        return getattr(importlib.import_module(f"ghostify.{file}"), now)


def register() -> None:
    """Make the old modules importable; what they name is imported when a pickle asks for it.

    They are no attributes of ``ghostify``, where ``fold`` and ``report`` are functions.
    """
    for module, names in NAMES.items():
        path = f"ghostify.{module}"
        sys.modules.setdefault(path, OldModule(path, names))
