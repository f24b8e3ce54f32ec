"""Modules of version 0.1.0 that its pickles name, such as ``ghostify.modules``: they have the names that pickles need.

``torch.save(student)`` writes the module that each class lies in. Version 0.1.0 wrote the modules it had then; from then on
classes in pickles are named as attributes of ``ghostify`` itself (see :mod:`ghostify.common.pickling`).
"""

import importlib
import sys
from types import ModuleType
from typing import Any

NAMES = {  # by the old module: the names in pickles, and the attributes of ghostify that they are now
    "modules": {"GhostModule": "GhostModule", "ReducedLinear": "ReducedLinear", "take_channels": "take_channels"},
    "recipe": {"ConversionRecipe": "ConversionRecipe", "SiteRecord": "SiteRecord"},
    "fold": {"FoldReport": "FoldReport", "FoldedPart": "FoldedPart"},
    "folded": {"FoldedGhost": "FoldedGhost", "GhostMaps": "GhostMaps"},
    "joins": {"Joined": "PartedMaps"},
    "hub": {"HubStudent": "HubStudent"},
}


class OldModule(ModuleType):
    """A module of which nothing is left but names that pickles ask for."""

    def __init__(self, name: str, names: dict[str, str]):
        super().__init__(name, "A module of version 0.1.0, which pickles of that version name.")
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module("ghostify"), self._names[name])


def register() -> None:
    """Make the old modules importable; what they name is imported when a pickle asks for it.

    They are no attributes of ``ghostify``, where ``fold`` is the function.
    """
    for module, names in NAMES.items():
        path = f"ghostify.{module}"
        sys.modules.setdefault(path, OldModule(path, names))
