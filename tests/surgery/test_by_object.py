"""A layer is changed wherever it stands, whatever its names, and what it was asked for goes with it."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

import ghostify
from ghostify.common.copying import become


def block(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())


class Named(nn.Module):
    """Layers under names of their own and in the list of modules that is called."""

    def __init__(self, ins: int, outs: int):
        super().__init__()
        self.norm, self.conv = nn.InstanceNorm2d(outs, affine=True), nn.Conv2d(ins, outs, 3, padding=1)
        self.layers = nn.ModuleList([self.conv, self.norm, nn.GELU()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Encoder(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.stages = nn.ModuleList(Named(i, o) for i, o in pairwise(widths))

    def forward(self, x):
        maps = []
        for stage in self.stages:
            maps.append(stage(x))
            x = nn.functional.max_pool2d(maps[-1], 2)
        return maps


class Decoder(nn.Module):
    """Keeps the encoder, which it asks for its widths, and never calls it."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        low, high = (stage.conv.out_channels for stage in encoder.stages[-2:])
        self.up, self.fuse = nn.ConvTranspose2d(high, low, 2, 2), Named(2 * low, low)

    def forward(self, maps):
        return self.fuse(torch.cat([self.up(maps[-1]), maps[-2]], 1))


class TwoNamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder([3, 8, 16, 24])
        self.decoder = Decoder(self.encoder)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x):
        return self.head(self.decoder(self.encoder(x)))


class OfChildren(nn.Module):
    """A network's body, and its stages made of the body's children, as U-Nets of pretrained networks have them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(block(3, 12), nn.MaxPool2d(2), block(12, 16), block(16, 16), nn.MaxPool2d(2))
        children = list(self.body.children())
        self.first, self.second = nn.Sequential(*children[:2]), nn.Sequential(*children[2:])
        self.join = nn.Conv2d(28, 16, 3, padding=1)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        low = self.first(x)
        high = nn.functional.interpolate(self.second(low), scale_factor=2.0)
        return self.out(self.join(torch.cat([low, high], 1)).relu())


class Listed(nn.Module):
    """Registered layers that are run from plain containers of objects."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = block(3, 8), block(8, 16), nn.Conv2d(16, 16, 3), nn.Linear(16, 4)
        self.act = nn.ReLU()
        self.steps = {"body": [self.a, *self.b], "rest": ((self.c, self.act),)}

    def forward(self, x):
        for step in (*self.steps["body"], *self.steps["rest"][0]):
            x = step(x)
        return self.head(x.mean((2, 3)))


NETWORKS = (TwoNamed, OfChildren, Listed)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("cheap", ["depthwise", "absorbed"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_layer_of_several_names_is_converted_under_all_of_them(network, cheap, inplace):
    torch.manual_seed(0)
    teacher = network().eval()
    original, x = copy.deepcopy(teacher), torch.randn(2, 3, 16, 16)
    student = ghostify.convert(teacher, 2, cheap=cheap, inplace=inplace)
    assert (student is teacher) is inplace
    names: dict[nn.Module, set[str]] = {}
    for name, module in original.named_modules(remove_duplicate=False):
        names.setdefault(module, set()).add(name)
    for group in names.values():
        assert len({id(student.get_submodule(name)) for name in group}) == 1
    report = ghostify.report(student, (2, 3, 16, 16))
    assert len(report.converted) >= 2
    assert report.after.flops < report.before.flops
    assert report.before == ghostify.report(ghostify.convert(original, 3), (2, 3, 16, 16)).before
    with torch.no_grad():
        assert student(x).shape == original(x).shape
        assert not torch.equal(student(x), original(x))


@pytest.mark.parametrize("cheap", ["auto", "absorbed"])
@pytest.mark.parametrize("network", NETWORKS)
def test_students_of_such_networks_are_calibrated_saved_and_loaded(network, cheap, tmp_path):
    torch.manual_seed(0)
    teacher, x = network().eval(), torch.randn(48, 3, 16, 16)
    student = ghostify.convert(teacher, 2, cheap=cheap)

    def error(model):
        with torch.no_grad():
            return float((model(x) - teacher(x)).pow(2).mean() / teacher(x).var())

    before = error(student)
    ghostify.calibrate(student, teacher, x, method="least_squares")
    assert error(student) < before
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", network)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), student(x))


class Routed(nn.Module):
    """A flat list whose layers say by attributes of theirs where their inputes come from and what they are."""

    def __init__(self):
        super().__init__()
        layers = [
            *(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU()),
            *(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.Hardswish()),
            *(nn.Conv2d(16, 24, 3, 2, 1), nn.ELU(), nn.Flatten()),
            *(nn.Linear(24 * 64, 32), nn.ReLU(), nn.Linear(32, 5)),
        ]
        for position, layer in enumerate(layers):
            layer.source, layer._kind, layer.facts = position - 1, type(layer).__name__, {"position": position}
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        values = {-1: x}
        for layer in self.layers:
            values[layer.facts["position"]] = layer(values[layer.source])
        return values[len(self.layers) - 1]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("settings", [{}, {"linear_ratio": 2, "cheap": "pointwise"}, {"cheap": "absorbed"}])
def test_the_attributes_of_a_layer_go_with_its_place(settings, inplace, tmp_path):
    teacher, x = Routed().eval(), torch.randn(2, 3, 16, 16)
    facts = [(layer.source, layer._kind, dict(layer.facts)) for layer in teacher.layers]
    student = ghostify.convert(teacher, 2, inplace=inplace, **settings)
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", Routed)
    for network in (student, loaded, copy.deepcopy(student)):
        assert [(layer.source, layer._kind, layer.facts) for layer in network.layers] == facts
    with torch.no_grad():
        torch.testing.assert_close(student(x), loaded(x))
    if not inplace:
        student.layers[2].facts["position"] = 77
        assert teacher.layers[2].facts["position"] == 2, "a copy has facts of its own"


def test_what_stands_for_a_norm_still_knows_how_many_maps_there_are():
    student = ghostify.convert(nn.Sequential(nn.Conv2d(3, 8, 3), *block(8, 16)), 2)
    assert isinstance(student[2], nn.Identity)
    assert student[2].num_features == 16
    assert student[1].transposed is False


def test_a_layer_that_becomes_another_is_it_for_all_who_hold_it():
    layer = nn.Conv2d(3, 8, 3)
    layer.remark = "first"
    holder = nn.Sequential(layer)

    def call(x):
        return layer(x)

    become(layer, nn.Conv2d(3, 5, 1))
    x = torch.randn(1, 3, 4, 4)
    assert call(x).shape == holder(x).shape == (1, 5, 4, 4)
    assert layer.remark == "first"
    assert [name for name, _ in holder.named_parameters()] == ["0.weight", "0.bias"]


def test_a_registered_layer_that_is_narrowed_to_itself_is_kept_in_place():
    class Scaled(nn.Module):
        def forward(self, x):
            return 2 * x

    ghostify.register_pattern(Scaled, "activation", narrow=lambda module, channels: module)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), Scaled(), nn.Conv2d(16, 4, 1)).eval()
    student = ghostify.convert(network, 2, inplace=True)
    assert isinstance(student[2], nn.Identity)
    assert isinstance(student[1].primary_conv[1], Scaled)
