"""fvcore's handlers and torch's counter count the same multiply-adds, layer by layer."""

import subprocess
import sys

import pytest
import torch
from helpers.networks import Residual, randomize
from torch import nn
from torch.nn import functional as F

import ghostify
from ghostify import ArgumentError
from ghostify.common.costs import measure
from ghostify.common.fvcore_costs import measure_by_fvcore


class Words(nn.Module):
    """Attention, products of matrices, einsum, a transposed convolution, padding by a word; the result is a dictionary."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 8, 3, padding="same")
        self.up = nn.ConvTranspose1d(8, 8, 2, stride=2, groups=2)
        self.norm = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs, scale=1.0):
        x = self.norm(self.up(self.conv(inputs["x"]))).transpose(1, 2) * scale
        x = self.attention(x, x, x, need_weights=False)[0] + F.scaled_dot_product_attention(x, x[:, :5], x[:, :5])
        y = torch.baddbmm(x, x @ x.transpose(1, 2), torch.einsum("bij,bj->bi", x, x.mean(1))[..., None].expand_as(x))
        return {"scores": self.head(y), "name": "words"}


class Reads(nn.Module):
    """Branches on a value and then fails, which a tracer does not get past."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3)

    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("no tracing here\nplease")
        return self.conv(x)


@pytest.mark.parametrize(
    ("network", "options", "shape"),
    [
        (lambda: randomize(Residual(16)), {"ratio": 2, "linear_ratio": 2, "cheap": "pointwise"}, (2, 3, 12, 12)),
        (lambda: ghostify.create_model("torchvision/mobilenet_v3_small"), {"ratio": 3}, (1, 3, 64, 64)),
        (lambda: ghostify.create_model("timm/convnext_atto"), {"ratio": 2, "cheap": "auto"}, (1, 3, 64, 64)),
    ],
)
def test_reports_agree_row_by_row(network, options, shape):
    student = ghostify.convert(network(), **options)
    assert student.training
    report = ghostify.report(student, shape, counter="fvcore")
    assert report == ghostify.report(student, shape) == ghostify.report(student, shape, counter="torch")
    assert report.after.flops < report.before.flops
    assert sum(row.flops_after for row in report.rows) > 0.5 * report.after.flops
    assert student.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())


def test_operations_that_fvcore_has_no_handlers_for():
    arguments = ({"x": torch.randn(2, 6, 10)}, 0.5)
    costs, other = (count(Words(), arguments, ["conv", "up", "head"]) for count in (measure, measure_by_fvcore))
    tokens, batch = 20, 2
    attention = tokens * 8 * 8 * 4 + 2 * tokens * tokens * 8  # projections, then products of each head with 4 channels
    products = 2 * tokens * 5 * 8 + 2 * tokens * tokens * 8 + tokens * 8
    layers = 10 * 8 * 6 * 3 + 10 * 8 * 4 * 2 + tokens * 8 * 3
    assert other.flops == batch * (attention + products + layers)
    assert (other.flops, other.positions) == (costs.flops, costs.positions)
    assert other.positions == {"conv": 20, "up": 20, "head": 40}
    assert other.activation_bytes == costs.activation_bytes


def test_attention_counts_in_a_network_whose_code_needs_values():
    class Looks(Words):
        def forward(self, inputs, scale=1.0):
            return super().forward(inputs, inputs["x"].sum().item() * 0 + scale)

    arguments = ({"x": torch.randn(2, 6, 10)}, 0.5)
    was_fast = torch.backends.mha.get_fastpath_enabled()
    assert measure(Looks(), arguments).flops == measure_by_fvcore(Looks(), arguments).flops == measure(Words(), arguments).flops
    assert torch.backends.mha.get_fastpath_enabled() == was_fast


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ab,bc->ac", [(3, 5), (5, 7)], 3 * 5 * 7),
        ("ij, kj", [(1003, 517), (719, 517)], 1003 * 517 * 719),
        ("...ab,...cb->...ac", [(2, 6, 4, 5), (6, 7, 5)], 2 * 6 * 4 * 5 * 7),
        ("...ab,bc->...ac", [(2, 3, 4, 5), (5, 6)], 2 * 3 * 4 * 5 * 6),
        ("ab,bc->c", [(3, 5), (5, 7)], 5 * 7),
        ("ab,bc,cd->ad", [(3, 5), (5, 7), (7, 2)], 3 * 5 * 7 + 3 * 7 * 2),
        ("ab,bc->ac", [(3, 1), (5, 7)], 0),
        ("abc,bc->abc", [(2, 3, 5), (3, 5)], 0),
        ("ab->b", [(2, 3)], 0),
    ],
)
def test_einsum(equation, shapes, expected):
    class Einsum(nn.Module):
        def forward(self, *operands):
            return torch.einsum(equation, *operands)

    operands = tuple(torch.zeros(shape) for shape in shapes)
    assert measure_by_fvcore(Einsum(), operands).flops == measure(Einsum(), operands).flops == expected


@pytest.mark.parametrize(
    ("kind", "options"), [(nn.LSTM, {"bidirectional": True}), (nn.LSTM, {"proj_size": 3}), (nn.GRU, {}), (nn.RNN, {})]
)
def test_recurrent_layers(kind, options):
    layer = kind(5, 7, 2, **options)
    x = torch.zeros(4, 2, 5)
    weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    assert measure_by_fvcore(layer, (x,)).flops == measure(layer, (x,)).flops == 4 * 2 * weights


def test_a_layer_that_is_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.alias = self.conv

        def forward(self, x):
            return self.alias(self.conv(x))

    names = ["conv", "alias", "unused"]
    costs = measure_by_fvcore(Twice(), (torch.zeros(1, 4, 5, 5),), names)
    assert costs.flops == 2 * 25 * 16
    assert costs.positions == {"conv": 50, "alias": 50, "unused": 0}


def test_what_fvcore_cannot_count_is_one_sentence():
    student = ghostify.convert(Residual(16).to("meta"))
    with pytest.raises(ArgumentError, match=r"^counter='fvcore' needs values to trace, and Residual is on the meta device"):
        ghostify.report(student, (1, 3, 8, 8), counter="fvcore")
    assert ghostify.report(student, (1, 3, 8, 8), counter="torch").after.flops > 0
    reads = ghostify.convert(Reads(), skip=())
    with pytest.raises(ArgumentError, match=r"^counter='fvcore' can't trace Reads, use counter='torch': no tracing here$"):
        ghostify.report(reads, (1, 3, 8, 8), counter="fvcore")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in reads.modules())
    with pytest.raises(ArgumentError, match="does not fit Residual"):
        ghostify.report(ghostify.convert(Residual(16)), (1, 4, 8, 8), counter="fvcore")
    with pytest.raises(ArgumentError, match="counter must be"):
        ghostify.report(student, counter="ptflops")


def test_fvcore_is_imported_when_it_is_asked_for():
    code = "import sys, ghostify, ghostify.conversion.make_report; assert 'fvcore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def small_student():
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 1)]
    return ghostify.convert(nn.Sequential(*layers))


def test_an_input_without_values_is_told():
    with pytest.raises(ArgumentError, match="the input is on the meta device"):
        ghostify.report(small_student(), torch.rand(1, 3, 8, 8, device="meta"), counter="fvcore")


def test_the_import_of_fvcore_warns_of_nothing():
    code = """
import warnings, torch, ghostify
from ghostify.common.fvcore_costs import measure_by_fvcore
warnings.simplefilter("error", FutureWarning)
print(measure_by_fvcore(torch.nn.Conv2d(3, 8, 1), (torch.zeros(1, 3, 4, 4),)).flops)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (str(3 * 8 * 16), 0), done.stderr
