"""Rounding alone is no fault: where outputs differ, the rehearsal goes on in double precision."""

import pytest
import torch
from torch import nn

import ghostify


class Sensitive(nn.Module):
    """Makes much of rounding, as deep networks do with random scales; ``taps`` makes it read its first layer's weights, too."""

    def __init__(self, taps=False):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3)
        self.head, self.taps = nn.Linear(32, 5), taps

    def forward(self, x):
        x = self.second(self.norm(self.first(x)).relu())
        tapped = float(self.first.weight.detach().numpy().sum()) if self.taps else 0  # which no graph shows
        return self.head((1e5 * x).sin().mean((2, 3))) + tapped


@pytest.mark.parametrize("inplace", [False, True])
def test_what_rounding_alone_does_is_no_fault(inplace):
    model = Sensitive().eval()
    before = {name: (value, value.data_ptr(), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    student = ghostify.convert(model, 2, cheap="absorbed", skip=(), example_input=torch.randn(2, 3, 16, 16), inplace=inplace)
    assert ghostify.report(student, (1, 3, 16, 16)).spans[0].reason is None
    kept = dict(student.named_parameters()) if inplace else dict(model.named_parameters())
    for name in ("head.weight", "head.bias"):  # nothing was done to them but for a while
        value, address, copied = before[name]
        assert kept[name] is value
        assert value.data_ptr() == address
        assert torch.equal(value, copied)


def test_a_fault_is_found_where_rounding_does_much():
    with pytest.raises(ghostify.UnsupportedModelError, match="nothing to convert"):
        ghostify.convert(Sensitive(taps=True).eval(), 2, cheap="absorbed", skip=(), example_input=torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize("cheap", ["depthwise", "auto", "absorbed"])
@pytest.mark.parametrize("place", ["norm.running_var", "second.bias"])
def test_weights_that_are_not_numbers_are_refused_by_name(place, cheap):
    model = Sensitive().eval()
    model.state_dict()[place][3] = torch.nan
    with pytest.raises(ghostify.ArgumentError, match=f"model has NaN or infinite weights in '{place}'"):
        ghostify.convert(model, 2, cheap=cheap, skip=(), example_input=torch.randn(2, 3, 16, 16))
