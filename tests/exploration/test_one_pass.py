"""sensitivity(method="one_pass"): what each span loses at every number of channels, and plans that go by it."""

import copy
import json

import pytest
import timm
import torch
from helpers.networks import Residual, randomize
from torch import nn

import ghostify
from ghostify import ArgumentError, Sensitivity, UnsupportedModelError
from ghostify.students.conversion_recipe import recipe_of

INPUT = (1, 3, 32, 32)


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(images):
    torch.manual_seed(0)
    net = randomize(timm.create_model("resnet18", channels=(16, 16, 32, 32), stem_width=16, output_stride=8, num_classes=10))
    ghostify.reestimate_norms(net, images)
    return net.eval()


@pytest.fixture(scope="module")
def found(model, images):
    return ghostify.sensitivity(model, images, (2, 4), method="one_pass")


def planned(model, share=0.7, **settings):
    return recipe_of(ghostify.convert(model, target={"flops": share}, cheap="absorbed", example_input=INPUT, **settings))


def test_losses_are_those_of_the_readers_refitted_without_the_maps(model, images, found):
    """By least squares on the patches of the convolution that reads them; the elimination does better than chance."""
    seen = {}
    reader = model.layer3[0].conv2
    hooks = [
        reader.register_forward_pre_hook(lambda module, args: seen.update(maps=args[0].double())),
        reader.register_forward_hook(lambda module, args, output: seen.update(output=output.double())),
        model.layer3[0].register_forward_hook(lambda module, args, output: seen.update(block=output.double())),
    ]
    with torch.no_grad():
        model(images)
        for hook in hooks:
            hook.remove()
        scale = (model.layer3[0].bn2.weight / (model.layer3[0].bn2.running_var + model.layer3[0].bn2.eps).sqrt()).double()
        curve = next(curve for curve in found.curves if curve.name == "layer3.0.conv1")
        channels = seen["maps"].shape[1]
        assert curve.counts == tuple(range(1, channels + 1))
        rows = nn.functional.unfold(seen["maps"], 3, padding=reader.padding, dilation=reader.dilation)
        rows = rows.transpose(1, 2).reshape(-1, channels, 9)
        wanted = (seen["output"] * scale[:, None, None]).flatten(2).transpose(1, 2).reshape(len(rows), -1)
        variance = seen["block"].var((0, 2, 3), correction=0).sum()
        others = []  # what random choices of half the maps lose
        for seed in range(10):
            kept = torch.randperm(channels, generator=torch.Generator().manual_seed(seed))[: channels // 2]
            x = torch.cat([rows[:, kept].flatten(1), torch.ones(len(rows), 1).double()], 1)
            off = wanted - x @ torch.linalg.lstsq(x, wanted).solution
            others.append(float(off.square().sum() / len(rows) / variance))
    assert curve.losses[-1] == 0
    assert 0.3 * min(others) < curve.losses[channels // 2 - 1] < min(others)
    assert list(curve.losses) == sorted(curve.losses, reverse=True)


def test_rows_are_excerpts_of_the_curves(found):
    curves = {curve.name: dict(zip(curve.counts, curve.losses, strict=True)) for curve in found.curves}
    assert len(found.rows) == 2 * len(curves)
    for row in found.rows:
        assert row.error == curves[row.name][row.intrinsic]
        assert (row.cheap, row.kl) == ("absorbed", None)
    assert "spans in one pass" in found.summary()
    assert len(found.to_frame()) == len(found.rows)
    assert found.plot().get_title(loc="left").endswith("one span at a time")


def test_a_plan_by_the_table_is_that_by_the_images(model, images, found, tmp_path):
    found.save(tmp_path / "s.json")
    assert Sensitivity.load(tmp_path / "s.json") == found
    plans = [planned(model, images=images), planned(model, sensitivity=found), planned(model, sensitivity=tmp_path / "s.json")]
    assert plans[0].narrowed
    assert plans[0] == plans[1] == plans[2]


def test_a_file_is_read_instead_of_measuring_again(model, images, found, tmp_path, monkeypatch):
    out = tmp_path / "s.json"
    assert ghostify.sensitivity(model, images, (2, 4), method="one_pass", cheap="absorbed", out=out) == found
    monkeypatch.setattr("ghostify.conversion.one_pass.losses_by_images", lambda *_: pytest.fail("measured again"))
    more = ghostify.sensitivity(model, images, (3,), method="one_pass", out=out)
    assert more.header.ratios == (2, 3, 4)
    assert more.curves == found.curves
    assert Sensitivity.load(out) == more
    with pytest.raises(ArgumentError, match="holds another measurement, with images=24, not 12"):
        ghostify.sensitivity(model, images[:12], method="one_pass", out=out)
    with pytest.raises(ArgumentError, match="holds another measurement, with"):
        ghostify.sensitivity(model, images, out=out)


def test_the_model_stays_as_it_is(model, images, found):
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    ghostify.sensitivity(model, images, method="one_pass", max_images=4)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_does_not_go_together(model, images, found, tmp_path):
    by_site = ghostify.sensitivity(Residual().eval(), images, (2,), cheap="depthwise")
    with pytest.raises(ArgumentError, match="measured site by site"):
        planned(Residual().eval(), sensitivity=by_site)
    with pytest.raises(ArgumentError, match="in one pass, which goes with cheap='absorbed'"):
        ghostify.convert(model, target={"flops": 0.6}, cheap="auto", sensitivity=found, example_input=INPUT)
    with pytest.raises(ArgumentError, match="measured on other weights"):
        planned(Residual().eval(), sensitivity=found)
    with pytest.raises(ArgumentError, match="goes with method='one_pass'"):
        ghostify.sensitivity(model, images, cheap="absorbed")
    with pytest.raises(ArgumentError, match="goes with method='site_by_site'"):
        ghostify.sensitivity(model, images, method="one_pass", cheap="depthwise")
    with pytest.raises(ArgumentError, match="labels, workers and engine go with"):
        ghostify.sensitivity(model, images, method="one_pass", workers=2)
    with pytest.raises(ArgumentError, match="method must be"):
        ghostify.sensitivity(model, images, method="all")
    with pytest.raises(UnsupportedModelError, match="nothing to convert"):
        ghostify.sensitivity(nn.Sequential(nn.Conv2d(3, 8, 3)), images, method="one_pass")


@pytest.mark.parametrize("damage", [{"counts": [1, 2]}, {"losses": ["much"]}, {"counts": []}, {"channels": 5}])
def test_damaged_files_are_refused(found, tmp_path, damage):
    data = json.loads(found.to_json())
    data["curves"][0].update(damage)
    (tmp_path / "s.json").write_text(json.dumps(data))
    with pytest.raises(ArgumentError, match=r"no file of ghostify.sensitivity"):
        Sensitivity.load(tmp_path / "s.json")
