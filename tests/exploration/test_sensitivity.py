"""sensitivity(): each figure is what putting that one Ghost module in gives; files, workers, resuming."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import Residual, randomize
from helpers.scenes import detector, scene
from helpers.segmenters import IMAGES, segmenter
from torch import nn
from torch.nn import functional as F

import ghostify
from ghostify.conversion.sensitivity_table import Sensitivity
from ghostify.exploration import site_scan as scan


@pytest.fixture(scope="module")
def model(images):
    torch.manual_seed(0)
    net = randomize(Residual(16))
    net.head.weight.data.mul_(20)  # classes that differ
    ghostify.reestimate_norms(net, images)
    return net.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_one_row_for_each_site_and_ratio(model, images):
    found = ghostify.sensitivity(model, images, (2, 4))
    assert [(row.name, row.ratio) for row in found.rows] == [(n, r) for n in ("conv1", "conv2") for r in (2, 4)]
    assert all(row.kl > 0 and 0 < row.error < 1 for row in found.rows)
    assert len(found.to_frame()) == 4
    assert ghostify.sensitivity(model, images, np.array([4, 2, 2])) == found
    for name in ("conv1", "conv2"):
        errors = [row.error for row in found.rows if row.name == name]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise"])
def test_the_divergence_is_that_of_the_model_with_this_module_in_it(model, images, cheap, monkeypatch):
    """Recomputed from outside: the module that was fitted, swapped into a converted model, and the whole model run."""
    modules = {}
    fit = scan.SiteFit.fit

    def spy(self, ghost, survey):
        module, result = fit(self, ghost, survey)
        modules[result.name] = module
        return module, result

    monkeypatch.setattr(scan.SiteFit, "fit", spy)
    labels = model(images).argmax(1)
    labels[:6] = (labels[:6] + 1) % 10
    found = ghostify.sensitivity(model, images, (2,), cheap=cheap, labels=labels)
    assert found.top1 == pytest.approx(18 / 24)
    assert modules.keys() == {"conv1", "conv2"}
    for row in found.rows:
        student = ghostify.convert(model, 2, cheap=cheap, ratios={"conv*": None, row.name: 2})
        student.set_submodule(row.name, modules[row.name])
        with torch.no_grad():
            p, q = (F.log_softmax(net.eval()(images), 1) for net in (model, student))
        assert row.kl == pytest.approx(float(F.kl_div(q, p, log_target=True, reduction="batchmean")), rel=1e-4)
        assert row.top1 == pytest.approx(float((q.argmax(1) == labels).float().mean()))


def test_printed_text_is_plain(model, images, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a notebook would
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    student = ghostify.convert(model)
    for told in (ghostify.sensitivity(model, images, (2,)), ghostify.calibrate(student, model, images, method="least_squares")):
        assert "conv1" in str(told)
        assert "\x1b" not in str(told)


def test_the_model_stays_as_it_is(model, images):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    model.train()
    ghostify.sensitivity(model, images, (2,))
    assert model.training
    model.eval()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_workers_find_the_same(model, images):
    alone, together = (ghostify.sensitivity(model, images, (2, 3), workers=workers) for workers in (1, 2))
    assert [(row.name, row.ratio, row.cheap) for row in alone.rows] == [(r.name, r.ratio, r.cheap) for r in together.rows]
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert one.kl == pytest.approx(other.kl, rel=1e-3)


class Branching(nn.Module):
    """Values decide the way: torch.fx can't follow."""

    def __init__(self):
        super().__init__()
        self.net = Residual(16)

    def forward(self, x):
        return self.net(x) if x.sum() > -1e9 else self.net(-x)


def test_a_model_that_does_not_trace_as_a_whole(model, images):
    wrapped = Branching().eval()
    wrapped.net.load_state_dict(model.state_dict())
    plain, inner = (ghostify.sensitivity(net, images, (2,)) for net in (model, wrapped))
    assert [row.name for row in inner.rows] == ["net.conv1", "net.conv2"]
    for one, other in zip(plain.rows, inner.rows, strict=True):
        assert one.kl == pytest.approx(other.kl, rel=1e-3)


def test_segmentation_and_detection():
    ratios = {"ratios": (2,), "max_images": 2}
    found = ghostify.sensitivity(segmenter("lraspp"), IMAGES, **ratios)
    assert all(row.kl is not None for row in found.rows)
    net = detector("ssd")
    found = ghostify.sensitivity(net, [[scene(0)[0]]], **ratios)
    assert all(row.kl is None for row in found.rows)
    assert found.metric() == "error"
    assert "no class scores" in str(found)
    student = ghostify.convert(net, target={"params": 0.8}, cheap="auto", sensitivity=found)
    assert sum(p.numel() for p in student.parameters()) <= 0.8 * sum(p.numel() for p in net.parameters())


def test_an_interrupted_measurement_goes_on(model, images, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "s.json"
    whole = ghostify.sensitivity(model, images, (2, 3))
    measured = []
    site = scan.SiteScan._site

    def counted(self, name, *args):
        if measured == ["conv1"] and len(measured) == 1 and not path.with_suffix(".go").exists():
            path.with_suffix(".go").touch()
            raise KeyboardInterrupt
        measured.append(name)
        return site(self, name, *args)

    monkeypatch.setattr(scan.SiteScan, "_site", counted)
    with pytest.raises(KeyboardInterrupt):
        ghostify.sensitivity(model, images, (2, 3), out=path)
    assert Sensitivity.load(path).sites == ["conv1"]
    found = ghostify.sensitivity(model, images, (2, 3), out=path)
    assert measured == ["conv1", "conv2"]
    assert found == whole == Sensitivity.load(path)
    assert ghostify.sensitivity(model, images, (2,), out=path) == whole
    assert measured == ["conv1", "conv2"]
    for options, told in (
        ({"labels": torch.arange(24) % 10}, "other labels"),
        ({"seed": 3}, "seed=0, not 3"),
        ({"images": images + 0.1}, "other pixels"),
    ):
        with pytest.raises(ghostify.ArgumentError, match=f"another measurement, with {told}"):
            ghostify.sensitivity(model, **{"images": images, "ratios": (2, 3), "out": path, **options})


def test_ratios_can_be_added(model, images, tmp_path, monkeypatch):
    wanted = ghostify.sensitivity(model, images, (2, 3, 4))
    ghostify.sensitivity(model, images, (2, 4), out=tmp_path / "s.json")
    fitted = []
    fit = scan.SiteFit.fit
    monkeypatch.setattr(scan.SiteFit, "fit", lambda self, ghost, survey: fitted.append(ghost) or fit(self, ghost, survey))
    assert ghostify.sensitivity(model, images, (3,), out=tmp_path / "s.json") == wanted == Sensitivity.load(tmp_path / "s.json")
    assert len(fitted) == len(wanted.sites)


def test_the_heat_map_shows_every_site(model, images):
    found = ghostify.sensitivity(model, images, (2, 4))
    for metric in (None, "error"):
        ax = found.plot(metric)
        assert [label.get_text() for label in ax.get_xticklabels()] == ["conv1", "conv2"]
        assert [label.get_text() for label in ax.get_yticklabels()] == ["2", "4"]
    with pytest.raises(ghostify.ArgumentError, match="metric='top1' was not measured"):
        found.plot("top1")
    with pytest.raises(ghostify.ArgumentError, match="metric must be"):
        found.plot("flops")


CASES = {
    "no model": (lambda m, x: ghostify.sensitivity(3, x), "model must be a torch.nn.Module"),
    "no image": (lambda m, x: ghostify.sensitivity(m, x[:0]), "images holds no image"),
    "bytes": (lambda m, x: ghostify.sensitivity(m, (x * 50).byte()), "images are uint8"),
    "no ratio": (lambda m, x: ghostify.sensitivity(m, x, ()), r"ratios must be numbers above 1 in a list, not \(\)"),
    "one number": (lambda m, x: ghostify.sensitivity(m, x, 2), "ratios must be numbers above 1 in a list, not 2"),
    "ratio 1": (lambda m, x: ghostify.sensitivity(m, x, (2, 1)), "ratio must be a .*number above 1"),
    "words": (lambda m, x: ghostify.sensitivity(m, x, ("a", "b")), "ratios must be numbers above 1 in a list"),
    "cheap": (lambda m, x: ghostify.sensitivity(m, x, cheap="free"), "cheap must be one of"),
    "workers": (lambda m, x: ghostify.sensitivity(m, x, workers=0), "workers must be at least 1"),
    "labels in words": (lambda m, x: ghostify.sensitivity(m, x, labels=["cat"] * 24), "labels must be whole numbers"),
    "few labels": (lambda m, x: ghostify.sensitivity(m, x, labels=[1, 2]), "labels must be a class for each of the 24"),
    "a student": (lambda m, x: ghostify.sensitivity(ghostify.convert(m), x), "nothing to convert"),
    "nothing to convert": (lambda m, x: ghostify.sensitivity(nn.Linear(3, 3), x), "nothing to convert"),
    "size": (lambda m, x: ghostify.sensitivity(m, x[:, :1]), "channels"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(model, images, name):
    call, message = CASES[name]
    with pytest.raises(ghostify.GhostifyError, match=message):
        call(model, images)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"format": 9}', '{"format": 1, "header": {}, "rows": [], "top1": null}'])
def test_files_of_something_else(tmp_path, content, model, images):
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(ghostify.ArgumentError, match="is no file of ghostify"):
        Sensitivity.load(path)
    with pytest.raises(ghostify.ArgumentError, match="is no file of ghostify"):
        ghostify.sensitivity(model, images, out=path)
    assert path.read_text() == content


def test_the_file_is_plain_json(model, images, tmp_path):
    found = ghostify.sensitivity(model, images, (2,), out=tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    assert [row["kl"] for row in data["rows"]] == [row.kl for row in found.rows]
