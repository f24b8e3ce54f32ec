"""Every third model family of timm and torchvision: fvcore's handlers count what torch's counter counts."""

from pathlib import Path

import pytest
import torch
from helpers.conversion import without_rehearsal
from helpers.families import shrink_detector

import ghostify
from ghostify.inputs.examples import example_input

NAMES = Path(__file__).with_name("sample.txt").read_text().split()[::3]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_counters_agree_on_a_family(name):
    torch.manual_seed(0)
    model = ghostify.create_model(name)
    inputs = example_input(model)
    shrink_detector(model)
    with without_rehearsal():
        student = ghostify.convert(model, init="random")
    assert ghostify.report(student, inputs, counter="fvcore") == ghostify.report(student, inputs)
