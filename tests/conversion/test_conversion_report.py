import json

import matplotlib as mpl
import pytest
import torch
import torchvision
from helpers.networks import Residual

import ghostify
from ghostify import Report
from ghostify.common.costs import count_params, measure
from ghostify.inputs.examples import example_input

mpl.use("Agg")


@pytest.fixture(scope="module")
def report():
    return ghostify.report(ghostify.convert(Residual(), ratios={"conv2": None}), (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("vgg11_bn", {"linear_ratio": 4}),
        ("densenet121", {"ratio": 3, "cheap": "pointwise"}),
        ("regnet_y_400mf", {"ratio": 1.5}),
        ("squeezenet1_1", {"skip": ()}),
        ("mc3_18", {"cheap": "auto"}),
    ],
)
def test_before_and_after_are_what_the_models_measure(name, options):
    model = ghostify.create_model(f"torchvision/{name}", device="meta")
    student = ghostify.convert(model, **options)
    report = ghostify.report(student)
    arguments = example_input(model)
    before, after = measure(model, arguments), measure(student, arguments)
    assert (report.before.params, report.after.params) == (count_params(model), count_params(student))
    assert (report.before.flops, report.after.flops) == (before.flops, after.flops)
    assert report.before.activation_bytes == before.activation_bytes
    assert report.after.activation_bytes == after.activation_bytes
    saved = sum(row.flops_before - row.flops_after for row in report.rows)
    assert before.flops - after.flops == saved


def test_reached_is_a_share_of_dense_convolutions(report):
    assert report.reached == pytest.approx(0.5)  # conv1 and conv2 cost the same
    assert report.rows[0].reason.startswith("first convolution")
    assert report.skipped == {report.rows[0].reason: ["stem"], "kept dense by ratios": ["conv2"]}
    assert [row.name for row in report.converted] == ["conv1"]


def test_json(report):
    again = Report.from_json(report.to_json())
    assert again == report
    assert json.loads(report.to_json())["after"]["params"] == report.after.params


def test_frame(report):
    frame = report.to_frame()
    assert list(frame.index) == ["stem", "conv1", "conv2"]
    assert frame.loc["conv1", "ratio"] == 2
    assert frame["params_before"].sum() - frame["params_after"].sum() == report.before.params - report.after.params


def test_texts(report):
    text, markdown, page = str(report), report.to_markdown(), report.to_html()
    for shown in (text, markdown, page):
        for row in report.rows:
            assert row.name in shown
        assert "kept dense by ratios" in shown
        assert "multiply-adds" in shown
    assert markdown.count("\n| ") == len(report.rows) + 1  # and the rule under the header
    assert page.count("<tr>") == len(report.rows) + 1
    assert report._repr_html_() == page


def test_html_is_escaped():
    class Net(torch.nn.Sequential):
        pass

    Net.__name__ = "<b>Net"
    model = Net(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3))
    page = ghostify.report(ghostify.convert(model, skip=("first",))).to_html()
    assert "<b>Net" not in page
    assert "&lt;b&gt;Net" in page


@pytest.mark.parametrize("metric", ["flops", "params"])
def test_plot(report, metric):
    axes = report.plot(metric)
    heights = [bar.get_height() for bar in axes.patches]
    before = [getattr(row, f"{metric}_before") for row in report.rows]
    after = [getattr(row, f"{metric}_after") if row.reason is None else 0 for row in report.rows]
    assert heights == before + after


def test_model_without_known_input():
    report = ghostify.report(ghostify.convert(Residual()))
    assert report.after.flops is None
    assert report.after.params < report.before.params
    assert "give report an example_input" in str(report)
    assert Report.from_json(report.to_json()) == report


@pytest.mark.parametrize("example", [(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), (torch.zeros(1, 3, 8, 8),)])
def test_ways_to_give_an_input(example):
    assert ghostify.report(ghostify.convert(Residual()), example).input == ((1, 3, 8, 8),)


def test_report_leaves_the_student_alone():
    student = ghostify.convert(torchvision.models.resnet18().train())
    before = {name: value.clone() for name, value in student.state_dict().items()}
    ghostify.report(student)
    assert student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


class Block(torch.nn.Module):
    """A convolution whose norm is taken out of the network for inference, as Ultralytics' layers are fused."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv, self.bn = (
            torch.nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(out_channels),
        )

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))

    def forward_fused(self, x):
        return torch.relu(self.conv(x))


def test_norms_may_be_taken_out_after_the_conversion():
    student = ghostify.convert(torch.nn.Sequential(Block(3, 8), Block(8, 16), Block(16, 16)))
    before = ghostify.report(student, (1, 3, 8, 8))
    for block in student[1:]:
        del block.bn
        block.forward = block.forward_fused
    report = ghostify.report(student, (1, 3, 8, 8))
    assert (report.before.flops, report.after) == (before.before.flops, before.after)


class Outside(torch.nn.Module):
    """Convolutions of each kind that are no layers of the network."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = torch.nn.Conv1d(2, 8, 1), torch.nn.Conv1d(8, 16, 3, padding=1)
        self.filters, self.depthwise = torch.nn.Parameter(torch.randn(16, 16, 3)), torch.nn.Parameter(torch.randn(16, 1, 5))
        self.lone = [torch.nn.Conv1d(16, 8, 1).requires_grad_(False)]  # in a plain list: none of the network's modules

    def forward(self, x):
        x = self.conv(self.stem(x)).relu()
        x = torch.nn.functional.conv1d(x, self.filters, padding=1)
        x = torch.nn.functional.conv1d(x, self.depthwise, padding=2, groups=16)
        x = torch.nn.functional.conv_transpose1d(x, self.filters, stride=2)
        return self.lone[0](x)


@pytest.mark.parametrize("counter", ["torch", "fvcore"])
@pytest.mark.filterwarnings("ignore")
def test_convolutions_that_are_no_layers_are_not_reached(counter):
    student = ghostify.convert(Outside().eval(), 2)
    report = ghostify.report(student, (1, 2, 10), counter)
    outside = 10 * 16 * 16 * 3 + 10 * 16 * 16 * 3 + 21 * 16 * 8
    assert report.outside == outside
    assert report.reached == pytest.approx(10 * 8 * 16 * 3 / (10 * 8 * 16 * 3 + outside))
    assert "18k are of convolutions that are no layers" in report.summary()


def test_a_layer_whose_weight_alone_is_used_is_not_reached():
    class Borrowed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = (torch.nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))

        def forward(self, x):
            return torch.nn.functional.conv2d(self.b(self.stem(x)).relu(), self.a.weight)

    report = ghostify.report(ghostify.convert(Borrowed().eval(), 2), (1, 3, 8, 8))
    assert report.outside == 36 * 8 * 8 * 9
    assert report.reached == pytest.approx(64 / (64 + 36))
