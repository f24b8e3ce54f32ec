"""The dress rehearsal of a conversion: networks whose code does not do what their graph says are converted rightly, or not."""

import copy
import functools
import itertools
import types

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import ghostify
from ghostify.layers.ghost_module import GhostModule

NARROW = 1.1  # nearly all channels are computed as in the original, so that a student can be told from a wrong one


class Untraceable(nn.Module):
    """A network that torch.fx can't trace as a whole."""

    def check(self, x):
        if x.shape[-1] < 4:
            raise ValueError("too small")
        return x


def chain(*widths, norm=True):
    layers = []
    for ins, outs in itertools.pairwise(widths):
        layers += [nn.Conv2d(ins, outs, 3, 1, 1), *([nn.BatchNorm2d(outs)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


class Tapped(Untraceable):
    """Walks over a chain of layers and gives some of their maps."""

    def __init__(self, *taps):
        super().__init__()
        self.body, self.taps = chain(3, 16, 32, 32, 16), taps

    def forward(self, x):
        x, maps = self.check(x), []
        for position, layer in enumerate(self.body):
            x = layer(x)
            maps += [x] if position in self.taps else []
        return {"maps": maps, "last": x}


class TypeWalker(Untraceable):
    """Adds noise-free skips behind each convolution that it knows by its class."""

    def __init__(self):
        super().__init__()
        self.body = chain(3, 16, 16, 16)

    def forward(self, x):
        x = self.check(x)
        for layer in self.body:
            x = layer(x) + 1 if isinstance(layer, nn.Conv2d) else layer(x)
        return x


class WeightReader(Untraceable):
    """Asks one of its convolutions for its weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)

    def forward(self, x):
        return self.third(self.second(self.first(self.check(x))).relu()).relu() * self.second.weight.norm()


class Lists(nn.Module):
    """Runs its layers from a plain list, a dict and a tuple."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 16, 3) for i in (3, 16, 16, 16))
        self.steps, self.named, self.pair = [self.a, nn.ReLU()], {"b": self.b}, (self.c, self.d)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        x = self.named["b"](x).relu()
        for step in self.pair:
            x = step(x).relu()
        return x


def converted(student):
    return {row.name for row in ghostify.report(student).converted}


def equal_channels(a, b):
    return sum(torch.allclose(x, y, atol=1e-4) for x, y in zip(a.unbind(1), b.unbind(1), strict=True))


@pytest.mark.parametrize(("tap", "norm", "act"), [(4, True, False), (3, False, False), (5, True, True)])
def test_what_a_network_takes_from_between_stays_there(tap, norm, act):
    torch.manual_seed(0)
    model, x = Tapped(tap).eval(), torch.rand(2, 3, 8, 8)
    student = ghostify.convert(model, NARROW)
    assert isinstance(student.body[3], GhostModule)
    assert isinstance(student.body[4], nn.Identity) == norm
    assert isinstance(student.body[5], nn.Identity) == act
    assert isinstance(student.body[8], nn.Identity)
    (theirs,), (ours,) = model(x)["maps"], student(x)["maps"]
    assert equal_channels(theirs, ours) >= 28
    assert ghostify.report(student).verified == "verified on 2x3x64x64"


def test_layers_whose_class_is_asked_for_stay_dense_with_the_reason():
    torch.manual_seed(0)
    with pytest.raises(ghostify.UnsupportedModelError, match="computes something else"):
        ghostify.convert(TypeWalker().eval(), 2)


def test_one_site_that_fails_does_not_stop_the_rest_even_where_it_is_named():
    torch.manual_seed(0)
    student = ghostify.convert(WeightReader().eval(), 2, ratios={"second": 4})
    assert converted(student) == {"third"}
    (reason,) = [reason for reason, names in ghostify.report(student).skipped.items() if "second" in names]
    assert reason.startswith("with another layer in its place the network fails: 'GhostModule'") or "weight" in reason


@pytest.mark.parametrize("inplace", [False, True])
def test_layers_in_plain_lists_are_converted_where_they_run(inplace):
    torch.manual_seed(0)
    model = Lists().eval()
    student = ghostify.convert(model, 2, inplace=inplace)
    assert (student is model) == inplace
    assert converted(student) == {"b", "c", "d"}
    assert student.named["b"] is student.b
    assert student.pair == (student.c, student.d)
    assert isinstance(student.pair[0], GhostModule)


def closure(model):
    model.step = lambda x: model.d(x)
    return model


def patched(model):
    def forward(x):
        return model.d(model.a(x))

    model.forward = forward
    return model


def hooked(model):
    model.b.register_forward_hook(lambda module, args, output: output + model.c(output).mean())
    return model


class Stepping(Lists):
    def forward(self, x):
        return self.step(self.b(self.a(x)))


@pytest.mark.parametrize("model", [closure(Stepping()), patched(Lists()), hooked(Lists())])
def test_functions_that_hold_the_original_are_an_error_and_fine_in_place(model):
    with pytest.raises(ghostify.UnsupportedModelError, match=r"holds \(a lambda or closure\)"):
        ghostify.convert(model.eval(), 2)
    assert converted(ghostify.convert(model, 2, inplace=True))


def test_methods_and_partials_of_a_network_are_copied_with_it():
    model = Lists().eval()
    model.forward = functools.partial(types.MethodType(Lists.forward, model))
    student = ghostify.convert(model, 2)
    assert converted(student) == {"b", "c", "d"}
    assert student(torch.rand(1, 3, 12, 12)).shape == (1, 16, 4, 4)


class Gated(Untraceable):
    """A branch whose last norm starts at zero, as of residual networks before training, hides what happens in it."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, 1, 1), chain(16, 16, 16, 16)
        nn.init.zeros_(self.body[-2].weight)
        nn.init.constant_(self.body[1].running_var, 4)

    def forward(self, x):
        x = self.stem(self.check(x))
        y = x
        for layer in self.body:
            y = layer(y).abs() if isinstance(layer, nn.BatchNorm2d) else layer(y)
        return x + y


def test_what_a_scale_of_zero_hides_is_found():
    student = ghostify.convert(Gated().eval(), 2)
    assert [type(layer).__name__ for layer in student.body] == ["GhostModule", "BatchNorm2d", "ReLU"] * 3


class Spans(Untraceable):
    """Its code knows how many maps the second of its layers makes."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, o, 3, 1, 1) for i, o in ((3, 16), (16, 32), (32, 16), (16, 16)))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        x = F.relu(self.c(x * torch.ones(32, 1, 1)))
        return self.head(self.d(x).relu().mean((2, 3)))


def test_absorbed_ghosts_are_rehearsed_too():
    student = ghostify.convert(Spans().eval(), 2, cheap="absorbed", skip=())
    report = ghostify.report(student)
    assert report.verified == "verified on 2x3x64x64"
    assert student.c.out_channels == 8
    assert student.b.out_channels == 32


class Random(Untraceable):
    """Draws numbers from a source that no seed reaches."""

    def __init__(self):
        super().__init__()
        self.body, self.source = chain(3, 16, 16), torch.Generator()

    def forward(self, x):
        return self.body(x) * torch.rand((), generator=self.source)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = chain(3, 16, 16), chain(3, 16, 16)

    def forward(self, x, y):
        return self.left(x) + self.right(y)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (TwoInputs, "no input is known"),
        (lambda: chain(3, 16, 16).to("meta"), "meta device"),
        (lambda: nn.Sequential(chain(3, 16, 16), Infinite()), "not finite"),
        (Random, "different outputs on the same input"),
    ],
)
def test_what_can_not_be_rehearsed_is_converted_and_said(model, why):
    student = ghostify.convert(model().eval(), 2)
    report = ghostify.report(student)
    assert report.verified is not None
    assert report.verified.startswith("not verified: ")
    assert why in report.verified
    assert report.verified in report.summary()


class Infinite(nn.Module):
    def forward(self, x):
        return x / 0.0


def test_random_networks_are_verified_with_a_fixed_seed():
    model = nn.Sequential(chain(3, 16, 16), Dropping()).eval()
    assert ghostify.report(ghostify.convert(model, 2)).verified == "verified on 2x3x64x64"


class Dropping(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


@pytest.mark.filterwarnings("ignore:images may lack")
def test_images_of_an_iterator_are_all_read_though_the_first_are_rehearsed():
    model, images = chain(3, 16, 16, 16).eval(), torch.rand(16, 3, 12, 12)
    given = iter(images.split(4))
    by_iterator, by_tensor = (
        ghostify.convert(model, target={"flops": 0.6}, cheap="absorbed", images=source) for source in (given, images)
    )
    x = images[:2]
    assert torch.equal(by_iterator(x), by_tensor(x))


@pytest.mark.filterwarnings("ignore:images may lack")
def test_what_is_given_comes_before_what_is_guessed():
    model, images = chain(3, 16, 16, 16).eval(), torch.rand(8, 3, 20, 20)
    aim = {"target": {"flops": 0.6}}
    by_example = ghostify.convert(model, **aim, example_input=(1, 3, 12, 12))
    assert ghostify.report(by_example).verified == "verified on 1x3x12x12"
    by_images = ghostify.convert(model, **aim, cheap="absorbed", images=iter(images.split(4)))
    assert ghostify.report(by_images).verified == "verified on 2x3x20x20"
    mixed = ghostify.convert(model, **aim, cheap="auto", images=images, example_input=torch.rand(4, 3, 16, 16))
    assert ghostify.report(mixed).verified == "verified on 2x3x16x16"


def test_a_target_is_met_by_the_sites_that_can_be_converted():
    torch.manual_seed(0)
    student = ghostify.convert(WeightReader().eval(), target={"params": 0.8})
    assert converted(student) == {"third"}


def test_linear_layers_are_rehearsed():
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.wide, self.plain, self.last = chain(3, 16), nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 4)

        def forward(self, x):
            x = self.wide(self.body(x).mean((2, 3))).relu()
            return self.last(self.plain(x).relu()) if type(self.wide) is nn.Linear else x

    student = ghostify.convert(Reading().eval(), 2, linear_ratio=2, skip=())
    assert converted(student) == {"body.0", "plain"}


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_is_left_as_it_was(inplace):
    torch.manual_seed(0)
    model = torchvision.models.resnet18().train()
    model.layer1.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    with pytest.raises(ghostify.GhostifyError):
        ghostify.convert(model, 2, ratios={"nothing": 2}, inplace=inplace)
    student = ghostify.convert(model, 2, init="random", inplace=inplace)
    assert torch.equal(torch.get_rng_state(), random)
    if not inplace:
        assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items() if name == "conv1.weight")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if inplace is False)
    assert not student.layer1.training
    assert student.layer2.training
    kept = [name for name in before if name.startswith(("bn1.", "fc."))]
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in kept)


def test_the_verdict_travels_with_a_student(tmp_path):
    student = ghostify.convert(chain(3, 16, 16).eval(), 2)
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", factory=lambda: chain(3, 16, 16))
    assert ghostify.report(loaded).verified == "verified on 2x3x64x64"
    text = ghostify.report(student).to_json()
    assert ghostify.Report.from_json(text).verified == "verified on 2x3x64x64"


class Counted(nn.Sequential):
    """Notes how often it, or a copy of it, is run."""

    passes = 0

    def forward(self, x):
        Counted.passes += isinstance(x, torch.Tensor)  # it is traced, too
        return super().forward(x)


@pytest.mark.parametrize(("cheap", "most"), [("depthwise", 4), ("absorbed", 6)])
def test_a_network_that_traces_runs_a_few_times(cheap, most):
    """As it is and rehearsed, with its own values and random ones; narrowed, also without the maps that go."""
    Counted.passes = 0
    ghostify.convert(Counted(*chain(3, 16, 32, 16)).eval(), cheap=cheap)
    assert Counted.passes <= most


class StatisticsInFloat(nn.Sequential):
    """Asks its last norm for its statistics whenever it is moved, to keep them in float."""

    def _apply(self, fn, recurse=True):
        kept = [self[-1].running_mean, self[-1].running_var]
        return super()._apply(lambda t: t if any(t is one for one in kept) else fn(t), recurse)


def test_a_norm_that_the_network_asks_for_when_it_is_moved_stays():
    network = StatisticsInFloat(*chain(3, 16, 32), nn.Conv2d(32, 16, 3), nn.BatchNorm2d(16)).eval()
    student = ghostify.convert(network, 2, skip=())
    assert isinstance(student[-1], nn.BatchNorm2d)
    assert isinstance(student[-2], GhostModule)
    assert student.half()[-1].running_mean.dtype == torch.float32
