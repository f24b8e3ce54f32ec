"""What ``import ghostify`` brings, and what it leaves until it is asked for."""

import importlib
import importlib.util
import pickle
import subprocess
import sys

import pytest

import ghostify
from ghostify.old_names import NAMES


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, ghostify; print(*sys.modules)"
    heavy = {"torch", "timm", "torchvision", "pandas", "accelerate", "matplotlib", "huggingface_hub", "yaml", "plotly", "rich"}
    assert heavy.isdisjoint(run(code).split())


def test_every_public_name_is_there():
    assert set(ghostify.__all__) <= set(dir(ghostify))
    names: dict[str, object] = {}
    exec("from ghostify import *", names)
    assert set(ghostify.__all__) <= names.keys()
    assert all(names[name] is getattr(ghostify, name) for name in ghostify.__all__)


def test_functions_stay_functions_once_all_files_are_imported():
    code = """
import importlib, pkgutil, ghostify
for module in pkgutil.walk_packages(ghostify.__path__, "ghostify."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import ghostify.fold
print(*(name for name in ghostify.__all__ if not callable(getattr(ghostify, name))))
"""
    assert run(code).split() == []


def test_names_in_pickles_are_attributes_of_the_package():
    for names in NAMES.values():
        for place in names.values():
            file, _, name = place.partition(":")
            thing = getattr(importlib.import_module(f"ghostify.{file}"), name)
            assert thing.__qualname__ == name
            if file.startswith(("layers", "students", "deployment.fold", "deployment.parted")):  # what students hold
                assert thing.__module__ == "ghostify"
                assert getattr(ghostify, name) is thing


@pytest.mark.parametrize(
    ("module", "name"), [("report", "Report"), ("trial", "Result"), ("training_recipe", "Recipe"), ("evaluation", "Evaluation")]
)
def test_pickles_of_the_first_version_find_reports_and_settings(module, name):
    loaded = pickle.loads(f"cghostify.{module}\n{name}\n.".encode())
    assert loaded.__module__.startswith("ghostify.")
    assert loaded.__name__ in (name, f"Trial{name}")
    assert importlib.util.find_spec(f"ghostify.{module}") is not None


def test_what_is_offered_is_public():
    names = [name for name in dir(ghostify) if not name.startswith("__")]
    assert set(names) == {*ghostify.__all__, "demo", "errors", "losses", "plots"} - {"__version__"}


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match="module 'ghostify' has no attribute 'ghost'"):
        _ = ghostify.ghost
