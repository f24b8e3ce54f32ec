"""Threads of the tests, and networks from the folder of shared data where it is there."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run side by side

SHARED = Path(os.environ.get("GHOSTIFY_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture
def cifar_models():
    """The module with resnet56() and vgg16_bn() for CIFAR-10, where the shared data folder is there."""
    path = SHARED / "data" / "models.py"
    if not path.exists():
        pytest.skip("the folder of shared data is not beside the project")
    spec = importlib.util.spec_from_file_location("cifar_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
