"""A folder with a factory of networks."""

import sys

import pytest

FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU())

def number():
    return 3

def needs(width):
    return nn.Conv2d(3, width, 3)

def counts():
    rates = [x.item() for x in torch.linspace(0, 1, 3)]
    return nn.Sequential(build(), nn.Dropout(rates[1]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path
