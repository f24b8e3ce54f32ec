"""convert(cheap="absorbed"): spans keep some of their maps, and the layers around them become plain narrower ones."""

import copy
import pickle

import pytest
import torch
import torchvision
from helpers.families import FAMILIES
from helpers.networks import Residual, randomize
from torch import fx, nn

import ghostify
from ghostify import ArgumentError, UnsupportedModelError


def converted(model, ratio=2, **settings):
    return ghostify.convert(model, ratio, cheap="absorbed", **{"min_channels": 1, **settings})


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return randomize(FAMILIES[request.param]()).eval()


def test_a_student_is_a_plain_narrower_network_of_the_same_shapes(model):
    before = copy.deepcopy(model.state_dict())
    student = converted(model)
    x = torch.randn(2, 3, *((160, 160) if "vit" in type(model).__name__.lower() else (64, 64)))
    assert type(student) is type(model)
    assert student(x).shape == model(x).shape
    kinds = [[type(module) for module in network.modules()] for network in (model, student)]
    assert kinds[0] == kinds[1]
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    pointers = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in pointers for p in student.parameters())


def test_the_report_counts_what_the_networks_measure(model):
    student = converted(model)
    report = ghostify.report(student, (1, 3, 160, 160))
    assert report.before.params == sum(p.numel() for p in model.parameters())
    assert report.after.params == sum(p.numel() for p in student.parameters())
    assert report.before.flops == ghostify.report(student, (1, 3, 160, 160), counter="fvcore").before.flops
    narrowed = [span for span in report.spans if span.reason is None]
    assert narrowed
    for span in narrowed:
        assert span.readers
        assert span.kept < span.channels
        assert span.flops_after < span.flops_before
        assert span.params_after < span.params_before
    assert all(span.kept == span.channels for span in report.spans if span.reason)
    assert ghostify.Report.from_json(report.to_json()) == report
    assert "absorbed" in str(report)


def test_a_file_builds_the_student_anew(model, tmp_path):
    student = converted(model).eval()
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", model)
    assert shapes(loaded) == shapes(student)
    x = torch.randn(2, 3, 160, 160)
    assert torch.equal(loaded(x), student(x))
    assert ghostify.report(loaded, x).to_json() == ghostify.report(student, x).to_json()
    assert torch.equal(pickle.loads(pickle.dumps(student))(x), student(x))


def test_half_of_the_maps_of_each_free_span_stay_and_the_others_give_reasons():
    student = converted(Residual())
    spans = ghostify.report(student).spans
    assert {span.name: span.kept for span in spans if span.reason is None} == {
        span.name: span.channels // 2 for span in spans if span.reason is None
    }
    assert any("added to those of other layers" in span.reason for span in spans if span.reason)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"ratio": 3, "round_to": 1}, 22),
        ({"ratio": 3}, 24),
        ({"ratio": 3, "round_to": 16}, 32),
        ({"ratios": {"layer1.0.conv1": 4}}, 16),
        ({"ratios": {"layer1.*": 4, "layer1.0.conv1": None}}, 64),
        ({"min_channels": 65}, 64),
        ({"min_channels": 65, "ratios": {"layer1.0.conv1": 4}}, 16),
    ],
    ids=["exact", "widths that run fast", "multiples", "named", "kept dense", "too few", "named though few"],
)
def test_settings_say_how_many_maps_stay(settings, kept):
    student = converted(torchvision.models.resnet18(), **settings)
    assert student.layer1[0].conv1.out_channels == student.layer1[0].bn1.num_features == kept
    assert student.layer1[0].conv2.in_channels == kept


def test_type_memory_format_flags_and_mode_are_kept():
    model = torchvision.models.resnet18().double().to(memory_format=torch.channels_last).train()
    model.layer1[0].conv1.weight.requires_grad_(False)
    student = converted(model)
    conv = student.layer1[0].conv1
    assert conv.weight.dtype == torch.float64
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not conv.weight.requires_grad
    assert student.layer1[0].conv2.weight.requires_grad
    assert student.training
    assert student.layer1[0].bn1.training


def test_in_place_and_as_a_graph_module():
    model = torchvision.models.resnet18().eval()
    traced = fx.symbolic_trace(model)
    x = torch.randn(2, 3, 64, 64)
    expected = converted(model)(x)
    assert torch.allclose(converted(traced)(x), expected, atol=1e-5)
    assert converted(model, inplace=True) is model
    assert torch.equal(model(x), expected)


def test_the_report_counts_spans_of_which_one_map_stays():
    model = Residual()
    student = converted(model, 1000, round_to=1)
    report = ghostify.report(student, (1, 3, 16, 16))
    assert any(span.kept == 1 for span in report.spans)
    assert report.before.params == sum(p.numel() for p in model.parameters())
    assert report.after.params == sum(p.numel() for p in student.parameters())


def test_an_activation_of_which_one_number_stays_is_widened_in_the_report():
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3), nn.PReLU())
    model = randomize(nn.Sequential(*layers)).eval()
    student = converted(model, 8, skip=())
    assert (student[0].out_channels, student[1].num_features, student[2].num_parameters, student[3].groups) == (1, 1, 1, 1)
    assert student(torch.randn(1, 3, 9, 9)).shape == (1, 8, 3, 3)
    report = ghostify.report(student, (1, 3, 9, 9))
    assert report.before.params == sum(p.numel() for p in model.parameters())
    assert report.after.params == sum(p.numel() for p in student.parameters())


def test_ghost_modules_may_be_made_of_the_layers_that_are_left():
    model = torchvision.models.resnet18(num_classes=10).eval()
    absorbed = converted(model)
    both = ghostify.convert(absorbed, 2)
    report = ghostify.report(both, (1, 3, 64, 64))
    assert report.before.params == sum(p.numel() for p in model.parameters())
    assert report.before.flops == ghostify.report(absorbed, (1, 3, 64, 64)).before.flops
    assert any(isinstance(module, ghostify.GhostModule) for module in both.modules())


def test_a_narrowed_network_is_not_narrowed_again():
    absorbed = converted(torchvision.models.resnet18())
    with pytest.raises(UnsupportedModelError, match="absorbed ghosts already"):
        converted(absorbed)


class Gate(nn.Module):
    """Two layers that make the same maps, by way of a product."""

    def __init__(self):
        super().__init__()
        self.a, self.gate, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(self.a(x) * self.gate(x).sigmoid())


def test_bad_settings_are_refused_in_one_sentence():
    with pytest.raises(ArgumentError, match="asks two things of layers that make the same maps"):
        converted(Gate(), skip=(), ratios={"a": 2, "gate": 4})
    with pytest.raises(ArgumentError, match="matches no convolution"):
        converted(Gate(), ratios={"nothing": 2})
    with pytest.raises(ArgumentError, match="only_if_faster goes with Ghost modules"):
        converted(Gate(), only_if_faster="eager")
    with pytest.raises(UnsupportedModelError, match="nothing to convert"):
        converted(nn.Sequential(nn.Conv2d(3, 8, 3)))
    student = converted(Gate(), skip=(), ratios={"a": 4, "gate": 4})
    assert student.b.in_channels == 2


def test_random_start_resets_the_layers_by_the_seed():
    model = torchvision.models.resnet18()
    state = torch.random.get_rng_state()
    first, again, other = (converted(model, init="random", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    weights = [student.layer1[0].conv1.weight for student in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_on_the_meta_device_nothing_is_allocated():
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    student = converted(model)
    assert all(p.is_meta for p in student.parameters())
    assert student.layer1[0].conv2.in_channels == 32
