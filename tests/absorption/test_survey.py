"""Losses, choices and filters of a survey against least squares on all positions at once."""

import pytest
import torch
from helpers.absorption import absorbed, apart, calls_of, free_spans
from helpers.networks import Residual, randomize
from torch import nn

from ghostify import ArgumentError
from ghostify.absorption.reader_layer import ReaderLayer
from ghostify.absorption.reader_moments import ReaderMoments
from ghostify.absorption.reader_system import FEW_SAMPLES
from ghostify.absorption.survey import SurveySettings, survey_spans
from ghostify.graph.network_spans import find_network_spans
from ghostify.graph.spans import SpanUse


class Small(nn.Module):
    """Two convolutions with a norm behind each."""

    def __init__(self, bias=False, norm=True):
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4) if norm else nn.Identity()

    def forward(self, x):
        return self.norm_b(self.b(self.norm_a(self.a(x)).relu())).relu()


def maps_of(model, x):
    with torch.no_grad():
        return model.norm_a(model.a(x)).relu()


def lstsq(model, x, kept, ridge, intercept):
    """The ridge regression of the second convolution on some maps, towards its own filters, and its loss."""
    with torch.no_grad():
        patches = nn.functional.unfold(maps_of(model, x), 3, padding=1).mT.flatten(0, 1)  # (P, 54)
        filters = model.b.weight.flatten(1).T
        if intercept:
            patches = patches - patches.mean(0)
        strength = ridge * max(1, FEW_SAMPLES * patches.shape[1] / len(patches)) * patches.square().mean()
        rows = (torch.tensor(kept)[:, None] * 9 + torch.arange(9)).flatten()
        pull = (strength * len(patches)).sqrt() * torch.eye(54, dtype=torch.float64)
        design, wanted = torch.cat([patches, pull]), torch.cat([patches @ filters, pull @ filters])
        solved = torch.linalg.lstsq(design[:, rows], wanted).solution
        left = (wanted - design[:, rows] @ solved).square().sum(0) / len(patches)
        norm = model.norm_b
        scale = norm.weight / (norm.running_var + norm.eps).sqrt() if isinstance(norm, nn.BatchNorm2d) else torch.ones(4)
        output = model(x)
        loss = float((left * scale.square()).sum() / output.var((0, 2, 3), correction=0).sum())
        return loss, solved.T.unflatten(1, (len(kept), 3, 3))


@pytest.mark.parametrize(("bias", "norm"), [(False, True), (True, False), (False, False)])
def test_losses_order_and_filters_are_those_of_refits_by_brute_force(bias, norm):
    torch.manual_seed(1)
    model = randomize(Small(bias, norm)).double().eval()
    x = torch.randn(6, 3, 6, 6, dtype=torch.float64)
    spans, calls, intercept, left = free_spans(model), calls_of(*x.split(4)), bias or norm, list(range(6))
    survey = survey_spans(model, spans, calls, settings=SurveySettings(ridge=1e-3))
    elimination = survey.spans["a"].elimination
    assert survey.readers == {}
    assert float(elimination.losses[6]) == 0
    for count in range(5, 0, -1):
        choices = [[m for m in left if m != gone] for gone in left]
        left = min(choices, key=lambda kept: lstsq(model, x, kept, 1e-3, intercept)[0])
        loss, filters = lstsq(model, x, left, 1e-3, intercept)
        assert elimination.kept(count).tolist() == left
        assert float(elimination.losses[count]) == pytest.approx(loss, rel=1e-8)
        counted = survey_spans(model, spans, calls, {"a": count}, settings=SurveySettings(ridge=1e-3))
        assert counted.spans["a"].kept.tolist() == left
        torch.testing.assert_close(counted.readers["b"].weight, filters, rtol=1e-8, atol=1e-10)


def test_a_shift_keeps_the_mean_output():
    torch.manual_seed(0)
    model = randomize(Small(bias=True)).double().eval()
    x = torch.randn(6, 3, 6, 6, dtype=torch.float64)
    student = absorbed(model, survey_spans(model, free_spans(model), calls_of(x), {"a": 2}))
    with torch.no_grad():
        before, after = model.b(maps_of(model, x)), student.b(maps_of(student, x))
    assert float((before - after).norm()) > 0.1 * float(before.norm())
    torch.testing.assert_close(after.mean((0, 2, 3)), before.mean((0, 2, 3)))


def test_losses_are_relative_to_the_output_of_the_residual_block():
    model = randomize(Residual()).double().eval()
    spans, calls = free_spans(model), calls_of(torch.randn(8, 3, 8, 8, dtype=torch.float64))
    relative = survey_spans(model, spans, calls).spans["conv1"].elimination
    own = survey_spans(model, spans, calls, metrics={"conv2": torch.ones(16)}).spans["conv1"].elimination
    with torch.no_grad():
        first = model.act(model.stem(calls[0][0][0]))
        branch = model.bn2(model.conv2(model.act(model.bn1(model.conv1(first)))))
        outputs = nn.functional.relu(first + branch)
    variance = float(outputs.var((0, 2, 3), correction=0).sum())
    torch.testing.assert_close(own.losses[1:] / variance, relative.losses[1:])
    square = survey_spans(model, spans, calls, metrics={"conv2": torch.eye(16)}).spans["conv1"].elimination
    torch.testing.assert_close(square.losses[1:], own.losses[1:])


def test_a_metric_looks_at_what_it_weighs_alone():
    model = randomize(Small()).double().eval()
    spans, calls = free_spans(model), calls_of(torch.randn(8, 3, 8, 8, dtype=torch.float64))
    with torch.no_grad():
        model.b.weight[1:, 2:] = 0  # the first output looks at two maps, all others at two others
        model.b.weight[0, :4] = 0
    some = survey_spans(model, spans, calls, {"a": 2}, metrics={"b": torch.tensor([0.0, 1, 1, 1])})
    assert some.spans["a"].kept.tolist() == [0, 1]
    mixed = torch.zeros(4, 4, dtype=torch.float64)
    mixed[1:, 1:] = torch.ones(3, 3)
    assert survey_spans(model, spans, calls, {"a": 2}, metrics={"b": mixed}).spans["a"].kept.tolist() == [0, 1]
    assert survey_spans(model, spans, calls, {"a": 2}, metrics={"b": torch.eye(4)[0]}).spans["a"].kept.tolist() == [4, 5]


def test_batches_spilled_values_and_counts_change_nothing():
    torch.manual_seed(0)
    model = randomize(Residual()).double().eval()
    spans, x = free_spans(model), torch.randn(12, 3, 8, 8, dtype=torch.float64)
    whole = survey_spans(model, spans, calls_of(x)).spans["conv1"].elimination
    spilled = survey_spans(model, spans, calls_of(*x.split(5)), settings=SurveySettings(memory=0)).spans["conv1"].elimination
    torch.testing.assert_close(spilled.losses, whole.losses, rtol=1e-7, atol=1e-12)
    assert spilled.kept(7).tolist() == whole.kept(7).tolist()
    counted = survey_spans(model, spans, calls_of(x), {"conv1": 7}).spans["conv1"]
    assert counted.kept.tolist() == whole.kept(7).tolist()
    torch.testing.assert_close(counted.elimination.losses[7:], whole.losses[7:])


def test_what_is_held_of_the_images_does_not_grow_with_their_number():
    reader = ReaderLayer(nn.Conv2d(4, 5, 3), [SpanUse("reader")])
    sizes = []
    for batches in (1, 20):
        moments = ReaderMoments(reader, 8 * batches, 0, True)
        for _ in range(batches):
            moments.add(torch.randn(8, 4, 9, 9))
        sizes.append(sum(value.numel() for value in vars(moments).values() if isinstance(value, torch.Tensor)))
    assert sizes[0] == sizes[1] < 2 * 36**2


class Loop(nn.Module):
    """Calls its block as often as the values of the images say, which does not trace."""

    def __init__(self):
        super().__init__()
        self.block = randomize(Small())
        self.unused = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))

    def forward(self, x):
        for _ in range(2 if x.mean() > 100 else 1):
            y = self.block(x)
        return self.unused(y) if self.training else y


def test_parts_of_a_network_that_does_not_trace_are_surveyed_by_what_reaches_them():
    model = Loop().double().eval()
    calls = calls_of(*torch.randn(2, 6, 3, 6, 6, dtype=torch.float64))
    spans = find_network_spans(model)
    survey = survey_spans(model, spans, calls, {"block.a": 3, "unused.0": 2})
    inner = survey_spans(model.block, free_spans(model.block), calls, {"a": 3})
    assert survey.spans["block.a"].kept.tolist() == inner.spans["a"].kept.tolist()
    assert torch.equal(survey.readers["block.b"].weight, inner.readers["b"].weight)
    assert survey.readers["block.b"].norm == "block.norm_b"
    assert survey.unreached == ("unused.0",)
    assert apart(model, absorbed(model, survey), calls[0][0][0]) < 0.5


def test_spans_that_one_layer_reads_are_decided_one_after_the_other():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x):
            return self.b(torch.cat([self.a(x).relu(), self.c(x).relu()], 1))

    torch.manual_seed(0)
    model = Joined().double().eval()
    with torch.no_grad():
        for tensor in ("weight", "bias"):  # the maps of c are those of a: each map can go in one of the two
            getattr(model.c, tensor).copy_(getattr(model.a, tensor))
    spans, calls = free_spans(model), calls_of(torch.randn(8, 3, 8, 8, dtype=torch.float64))
    tiny = SurveySettings(ridge=1e-10)
    survey = survey_spans(model, spans, calls, {"a": 2, "c": 2}, settings=tiny)
    assert sorted([*survey.spans["a"].kept.tolist(), *survey.spans["c"].kept.tolist()]) == [0, 1, 2, 3]
    assert apart(model, absorbed(model, survey), calls[0][0][0]) < 1e-5
    alone = survey_spans(model, spans, calls, settings=tiny)
    assert all(float(one.elimination.losses[1]) < 1e-6 for one in alone.spans.values())


def test_a_layer_that_reads_more_than_the_span_fits_all_of_it_anew():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 12, 1), nn.Conv2d(16, 5, 1)

        def forward(self, x):
            return self.b(torch.cat([self.a(x).relu(), self.c(x).relu()], 1))

    torch.manual_seed(0)
    model = Joined().double().eval()
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        maps = torch.cat([model.a(x).relu(), model.c(x).relu()], 1).movedim(1, -1).flatten(0, -2)
        maps = maps - maps.mean(0)
        wanted = maps @ model.b.weight.flatten(1).T
    few = max(1, FEW_SAMPLES * 16 / len(maps))
    ridge = (few * 1e-3 * maps.square().mean() * len(maps)).sqrt() * torch.eye(16, dtype=torch.float64)
    survey = survey_spans(model, free_spans(model), calls_of(x), settings=SurveySettings(ridge=1e-3))
    pull = torch.cat([wanted, ridge @ model.b.weight.detach().flatten(1).T])
    for count in (3, 2, 1):
        kept = [*survey.spans["a"].elimination.kept(count).tolist(), *range(4, 16)]
        design = torch.cat([maps, ridge])[:, kept]
        left = pull - design @ torch.linalg.lstsq(design, pull).solution
        loss = float(left.square().sum() / wanted.square().sum())
        assert float(survey.spans["a"].elimination.losses[count]) == pytest.approx(loss, rel=1e-8)


def test_what_an_earlier_layer_ran_ahead_of_is_still_there():
    class Block(nn.Module):
        """The shortcut's layer comes first, and the output of its block needs all other layers."""

        def __init__(self):
            super().__init__()
            self.stem, self.shortcut = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
            self.a, self.b, self.c = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            x = self.stem(x).relu()
            shortcut = self.shortcut(x)
            x = self.b(self.a(x).relu().tanh()).relu().tanh()
            return (shortcut + self.c(x)).relu()

    torch.manual_seed(0)
    model = Block().eval()
    survey = survey_spans(model, free_spans(model), calls_of(*torch.randn(2, 4, 3, 6, 6)))
    assert set(survey.spans) == {"stem", "a", "b"}


@pytest.mark.parametrize(
    ("counts", "message"),
    [({"nothing": 1}, "first maker of no span"), ({"a": 0}, "keep 1 to 6"), ({"a": 7}, "not 7"), ({"b": 2}, "an output")],
)
def test_counts_that_can_not_be_kept_are_refused(counts, message):
    model = Small().eval()
    with pytest.raises(ArgumentError, match=message):
        survey_spans(model, find_network_spans(model), calls_of(torch.randn(2, 3, 6, 6)), counts)


def test_maps_that_overflow_are_refused():
    model = Small().eval()
    with pytest.raises(ArgumentError, match="not finite"):
        survey_spans(model, free_spans(model), calls_of(torch.full((2, 3, 6, 6), torch.inf)))
