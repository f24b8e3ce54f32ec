"""What is linear in the maps that stay is absorbed without a loss."""

import copy

import pytest
import timm
import torch
import torchvision
from helpers.absorption import EXACT, absorbed, apart, calls_of, changed, free_spans, halved, with_copies
from helpers.networks import Gated, Residual, Upwards, randomize
from torch import nn

from ghostify.absorption.survey import SurveySettings, survey_spans
from ghostify.errors import ArgumentError

torch.manual_seed(0)


class Dense(nn.Module):
    """Layers that each read the concatenated maps of all earlier ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(14, 6, 3, padding=1)
        self.norm, self.d, self.head = nn.BatchNorm2d(20), nn.Conv2d(20, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        a = self.a(x).relu()
        b = self.b(a).relu()
        c = self.c(torch.cat([a, b], 1)).relu()
        return self.head(self.d(self.norm(torch.cat([a, b, c], 1))).mean((2, 3)))


NETWORKS = {
    "gated": (Gated, (3, 6, 6)), "dense": (Dense, (3, 7, 7)),
    "residual": (Residual, (3, 8, 8)), "upwards": (Upwards, (3, 8, 8)), "upwards 1d": (lambda: Upwards(1), (3, 16)),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), (3, 32, 32)),
    "regnety": (lambda: timm.create_model("regnety_002", num_classes=10), (3, 32, 32)),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5), (3, 32, 32)),
    "mlp of a vit": (lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=10), (3, 64, 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_of_maps_are_absorbed_without_a_loss(name):
    build, shape = NETWORKS[name]
    model = with_copies(randomize(build()).double().eval())
    x = torch.randn(96, *shape, dtype=torch.float64)
    student, survey = halved(model, calls_of(*x.split(32)))
    assert len(survey.spans) == len(free_spans(model))
    assert survey.unreached == ()
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    assert apart(model, student, x) < 1e-5


class Between(nn.Module):
    """Two convolutions; a half of the maps of the first is linear in the other half where the second reads them."""

    def __init__(self, between, reader, constant, norm):
        super().__init__()
        self.a, self.between, self.b = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), between, reader
        self.norm = norm
        nn.init.uniform_(self.a.weight, -1, 1)
        with torch.no_grad():
            self.a.bias.fill_(30)  # all maps are above zero, so that a ReLU leaves them linear
            mixing = torch.rand(4, 4)
            self.a.weight[4:] = torch.einsum("ij,jabc->iabc", mixing, self.a.weight[:4])
            self.a.bias[4:] = mixing @ self.a.bias[:4] + constant

    def forward(self, x):
        return self.norm(self.b(self.between(self.a(x).relu()))).relu()


def depthwise():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    layer.weight.data[:] = layer.weight.data[:1]
    return layer


@pytest.mark.parametrize(
    ("between", "reader", "constant", "norm"),
    [
        (nn.Identity(), nn.Conv2d(8, 5, 3, padding=1), 0.0, nn.Identity()),
        (nn.Identity(), nn.Conv2d(8, 5, 3, bias=False), 2.0, nn.BatchNorm2d(5)),
        (nn.Identity(), nn.Conv2d(8, 5, 3, padding=1, bias=False), 0.0, nn.Identity()),
        (nn.AvgPool2d(2), nn.Conv2d(8, 5, 3), 2.0, nn.Identity()),
        (depthwise(), nn.Conv2d(8, 5, 3, padding=1, stride=2), 0.0, nn.BatchNorm2d(5)),
        (nn.Identity(), nn.ConvTranspose2d(8, 5, 2, stride=2), 0.0, nn.Identity()),
        (nn.Identity(), nn.ConvTranspose2d(8, 5, 4, stride=2, padding=1), 0.0, nn.BatchNorm2d(5)),
        (nn.Dropout(0.3), nn.Conv2d(8, 5, (1, 3), padding=(0, 1), padding_mode="reflect"), 2.0, nn.Identity()),
    ],
    ids=[
        *("padded", "a constant, under a norm", "nowhere to put a shift", "a constant, pooled", "depthwise"),
        *("transposed", "overlapping", "reflected"),
    ],
)  # fmt: skip
def test_maps_that_are_linear_in_others_are_absorbed_without_a_loss(between, reader, constant, norm):
    model = randomize(Between(between, reader, constant, norm)).double().eval()
    x = torch.randn(24, 3, 8, 8, dtype=torch.float64)
    student, survey = halved(model, calls_of(*x.split(8)))
    assert student.b.in_channels == 4
    assert (survey.readers["b"].shift is None) == (reader.bias is None and isinstance(norm, nn.Identity))
    assert apart(model, student, torch.randn(8, 3, 8, 8, dtype=torch.float64)) < 1e-5


def test_a_layer_with_more_unknowns_than_can_be_solved_for_takes_its_taps_as_alike():
    model = with_copies(Gated().double().eval())
    x = torch.randn(48, 3, 6, 6, dtype=torch.float64)
    settings = SurveySettings(ridge=1e-12, widest=17)
    student, survey = halved(model, calls_of(*x.split(16)), settings)
    assert apart(model, student, x) < 1e-5
    assert float(survey.spans["mix"].elimination.losses[2]) < 1e-8


def test_channels_that_are_given_stay_and_readers_absorb_the_others():
    model = with_copies(Gated().double().eval())
    x = torch.randn(48, 3, 6, 6, dtype=torch.float64)
    spans = free_spans(model)
    copies = {
        span.makers[0]: torch.arange(span.channels).view(span.groups, -1)[:, -(span.channels // span.groups // 2) :].flatten()
        for span in spans
    }
    counts = {name: len(kept) for name, kept in copies.items()}
    survey = survey_spans(model, spans, calls_of(*x.split(16)), counts, channels=copies, settings=EXACT)
    assert all(torch.equal(survey.spans[name].kept, kept) for name, kept in copies.items())
    assert apart(model, absorbed(model, survey), x) < 1e-5
    chosen = survey_spans(model, spans, calls_of(*x.split(16)), counts, settings=EXACT)
    same = {name: span.kept for name, span in chosen.spans.items()}
    again = survey_spans(model, spans, calls_of(*x.split(16)), counts, channels=same, settings=EXACT)
    assert all(torch.equal(chosen.readers[name].weight, again.readers[name].weight) for name in chosen.readers)
    with pytest.raises(ArgumentError, match=f"channels of '{spans[0].makers[0]}'"):
        survey_spans(model, spans, calls_of(x), channels=copies)


def test_with_all_maps_kept_no_layer_changes():
    model = Gated().eval()
    spans = free_spans(model)
    survey = survey_spans(model, spans, calls_of(torch.randn(4, 3, 6, 6)), {span.makers[0]: span.channels for span in spans})
    assert all(torch.equal(one.kept, torch.arange(one.span.channels)) for one in survey.spans.values())
    assert survey.readers == {}
    assert changed(model.state_dict(), absorbed(model, survey)) == []


def test_the_original_is_not_changed_and_shares_nothing_that_was():
    model = randomize(Gated()).eval()
    state = copy.deepcopy(model.state_dict())
    student, _ = halved(model, calls_of(torch.randn(16, 3, 6, 6)))
    with torch.no_grad():
        for name in ("project", "head", "squeeze"):
            student.get_submodule(name).bias.add_(1)
            student.get_submodule(name).weight.add_(1)
    assert changed(state, model) == []
    assert all(p.dtype == torch.float32 for p in student.parameters())


def test_dead_maps_go_first_and_cost_nothing():
    model = Between(nn.Identity(), nn.Conv2d(8, 5, 3, padding=1), 0.0, nn.Identity()).eval()
    model.a.bias.data[[1, 4, 6]] = -1e3
    model.b.weight.data[:, [1, 4, 6]] *= 1e3  # a pull towards large filters must not count, either
    survey = survey_spans(model, free_spans(model), calls_of(torch.randn(16, 3, 8, 8)))
    elimination = survey.spans["a"].elimination
    assert sorted(elimination.order[:3].tolist()) == [1, 4, 6]
    assert float(elimination.losses[5]) == 0 < float(elimination.losses[4])
    assert EXACT.ridge < SurveySettings().ridge
