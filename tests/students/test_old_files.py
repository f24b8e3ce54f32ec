"""Files that version 0.1.0 wrote load, and compute what they computed."""

import copy
import importlib
import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ghostify
from ghostify.students.conversion_recipe import recipe_of

OLD = Path(__file__).resolve().parents[1] / "data" / "version_0_1_0"


def network() -> nn.Sequential:
    def block(ins: int, outs: int, groups: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(ins, outs, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)]
    return nn.Sequential(*block(3, 12), *block(12, 16), *block(16, 16, 2), nn.Conv2d(16, 16, 1), nn.ReLU(), *head).eval()


@pytest.fixture
def teacher() -> nn.Sequential:
    model = network()
    model.load_state_dict(load_file(OLD / "teacher.safetensors"))
    return model


@pytest.fixture
def expected() -> dict[str, torch.Tensor]:
    return load_file(OLD / "expected.safetensors")


@pytest.fixture
def student() -> nn.Module:
    return ghostify.load(OLD / "student.safetensors", network)


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images)


def close(one: torch.Tensor, other: torch.Tensor, most: float = 1e-5) -> bool:
    return torch.allclose(one, other, rtol=0, atol=most)


def test_a_saved_student_computes_what_it_computed(student, expected):
    assert close(outputs(student, expected["images"]), expected["outputs"])
    assert close(outputs(ghostify.fold(student), expected["images"]), expected["folded"])


def test_a_student_within_a_budget_keeps_its_sites(expected):
    student = ghostify.load(OLD / "budget.safetensors", network)
    recipe = recipe_of(student)
    assert recipe.versions["ghostify"] == "0.1.0"
    assert recipe.config["budget"]["metric"] == "flops"
    assert {r.name for r in recipe.sites if r.converted and r.kind == "conv"} == {
        name for name, module in student.named_modules() if isinstance(module, ghostify.GhostModule)
    }
    assert outputs(student, expected["images"]).isfinite().all()


def fields_of_old(report):
    """What a report of version 0.1.0 had; the present one says besides that nothing was narrowed, that all are layers, and that
    nothing is known of a rehearsal."""
    data = json.loads(report.to_json())
    assert (data.pop("spans"), data.pop("outside"), data.pop("verified")) == ([], 0, None)
    for row in data["rows"]:
        assert (row.pop("in_channels_after"), row.pop("out_channels_after")) == (row["in_channels"], row["out_channels"])
    return data


def test_whole_students_load_from_pickles(expected):
    student = torch.load(OLD / "student.pt", weights_only=False)
    assert any(isinstance(module, ghostify.GhostModule) for module in student.modules())
    assert any(isinstance(module, ghostify.ReducedLinear) for module in student.modules())
    assert close(outputs(student, expected["images"]), expected["outputs"])
    assert close(outputs(ghostify.fold(student), expected["images"]), expected["folded"])
    assert fields_of_old(ghostify.report(student, (1, 3, 8, 8))) == json.loads((OLD / "report.json").read_text())


def test_folded_networks_load_from_pickles(expected):
    folded = torch.load(OLD / "folded.pt", weights_only=False)
    assert isinstance(folded.folding, ghostify.FoldReport)
    assert close(outputs(folded, expected["images"]), expected["folded"])


def test_pickles_load_where_nothing_else_of_the_package_was_imported():
    code = "import sys, torch, ghostify; [torch.load(path, weights_only=False) for path in sys.argv[1:]]"
    subprocess.run([sys.executable, "-c", code, *(str(OLD / file) for file in ("student.pt", "folded.pt"))], check=True)


def test_the_old_modules_have_no_other_names_and_hide_no_function():
    old = importlib.import_module("ghostify.fold")
    assert callable(ghostify.fold)
    assert old.FoldReport is ghostify.FoldReport
    with pytest.raises(AttributeError, match=r"'ghostify\.fold' has no attribute 'Folder'"):
        _ = old.Folder


def test_sensitivities_choose_ratios(teacher):
    known = ghostify.Sensitivity.load(OLD / "sensitivity.json")
    chosen = ghostify.convert(teacher, target={"flops": 0.6}, cheap="auto", sensitivity=known, example_input=(1, 3, 8, 8))
    before = ghostify.load(OLD / "budget.safetensors", network)
    ratios = [{r.name: (r.ratio, r.intrinsic, r.cheap) for r in recipe_of(model).sites} for model in (chosen, before)]
    assert ratios[0] == ratios[1]


def test_a_report_has_the_same_fields(student):
    assert fields_of_old(ghostify.report(student, (1, 3, 8, 8))) == json.loads((OLD / "report.json").read_text())


def test_a_training_recipe_has_its_settings():
    recipe = ghostify.Recipe.load(OLD / "recipe.yaml")
    assert recipe == ghostify.Recipe(steps=7, lr=3e-3, batch_size=8, augment="none", mixup=0.0)


def test_an_interrupted_distillation_goes_on(teacher, expected, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(OLD / "run", run)
    student = ghostify.convert(teacher, ratio=2, cheap="auto", linear_ratio=1.5, ratios={"6": 3})
    recipe = ghostify.Recipe.load(run / "recipe.yaml")
    report = ghostify.distill(student, teacher, expected["images"], recipe=recipe, out=run, resume=True)
    assert [(epoch.epoch, epoch.step) for epoch in report.epochs] == [(0, 0), (1, 4), (2, 8), (3, 12)]
    wanted = load_file(OLD / "distilled.safetensors")
    state = student.state_dict()
    assert state.keys() == wanted.keys()
    assert all(close(state[name].float(), wanted[name].float(), 1e-4) for name in wanted)


@pytest.mark.parametrize("fold", [False, True])
def test_pickles_name_the_package_and_no_file_in_it(student, expected, fold):
    model = ghostify.fold(student) if fold else student
    data = pickle.dumps(model)
    for module in ("layers", "students", "deployment", "modules", "folded"):
        assert f"ghostify.{module}".encode() not in data
    for again in (pickle.loads(data), copy.deepcopy(model)):
        assert torch.equal(outputs(again, expected["images"]), outputs(model, expected["images"]))
    file = io.BytesIO()
    torch.save(model, file)
    again = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert torch.equal(outputs(again, expected["images"]), outputs(model, expected["images"]))
