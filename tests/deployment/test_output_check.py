"""Outputs may differ by the rounding of their type, and by no more."""

import pytest
import torch
from torch import nn

import ghostify
from ghostify.deployment.output_check import check_outputs


@pytest.mark.parametrize(
    ("kind", "rounding", "too_much"), [(torch.float32, 5e-4, 2e-3), (torch.float16, 2e-3, 8e-3), (torch.bfloat16, 0.02, 0.06)]
)
def test_a_short_type_may_differ_by_a_few_of_its_roundings(kind, rounding, too_much):
    network = nn.Conv2d(3, 4, 1).to(kind)
    x = torch.randn(1, 3, 4, 4).to(kind)

    def check(share):
        def run(x):
            y = network(x).detach().double()
            return [y + share * y.abs().max()]

        check_outputs(network, run, [x], "torch", int8=False)

    check(rounding)
    with pytest.raises(ghostify.GhostifyError, match="other outputs"):
        check(too_much)
