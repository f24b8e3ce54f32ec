"""Commands that measure sensitivities and sweep."""

import json

import numpy as np
import torch
from helpers.cli import run
from helpers.networks import Residual, randomize
from safetensors.torch import save_file

import ghostify


def test_a_target_is_shared_out_by_a_sensitivity(monkeypatch, capsys, folder):
    torch.manual_seed(0)
    teacher = randomize(Residual(32))
    save_file(teacher.state_dict(), folder / "w.safetensors")
    np.save(folder / "few.npy", torch.randn(12, 3, 12, 12).numpy())
    (folder / "wide_residual.py").write_text("from helpers.networks import Residual\n\ndef build():\n    return Residual(32)\n")
    model = ["--factory", "wide_residual:build", "--weights", "w.safetensors"]
    images = ["--images", "few.npy", "--out", "found.json", "--ratios", "1.5,3"]
    code, out, _ = run(monkeypatch, capsys, "sensitivity", *model, *images, "--plot", "heat.png")
    assert code == 0
    assert "2 sites, 12 images" in out
    assert (folder / "heat.png").read_bytes().startswith(b"\x89PNG")
    found = ghostify.Sensitivity.load(folder / "found.json")
    assert (found.sites, found.header.ratios) == (["conv1", "conv2"], (1.5, 3.0))
    target = ["--target", "flops=0.6", "--input", "1x3x12x12", "--cheap", "auto"]
    for number, given in enumerate((["--sensitivity", "found.json"], [])):
        code, out, _ = run(monkeypatch, capsys, "convert", *model, *target, *given, "--out", f"s{number}.safetensors")
        assert code == 0
        assert "budget      flops" in out
    code, out, _ = run(monkeypatch, capsys, "calibrate", *model, *target, "--images", "few.npy", "--out", "c.safetensors")
    assert code == 0
    student = ghostify.load(folder / "c.safetensors", factory=teacher)
    measured = ghostify.sensitivity(teacher, torch.from_numpy(np.load(folder / "few.npy")))
    wanted = ghostify.convert(teacher, target={"flops": 0.6}, cheap="auto", sensitivity=measured, example_input=(1, 3, 12, 12))
    assert {name: p.shape for name, p in student.named_parameters()} == {n: p.shape for n, p in wanted.named_parameters()}


def test_absorbed_ghosts_are_shared_out_by_one_pass(monkeypatch, capsys, folder):
    torch.manual_seed(0)
    teacher = randomize(Residual(32))
    save_file(teacher.state_dict(), folder / "w.safetensors")
    np.save(folder / "few.npy", torch.randn(12, 3, 12, 12).numpy())
    (folder / "absorbed_residual.py").write_text(
        "from helpers.networks import Residual\n\ndef build():\n    return Residual(32)\n"
    )
    model, images = ["--factory", "absorbed_residual:build", "--weights", "w.safetensors"], ["--images", "few.npy"]
    code, out, _ = run(monkeypatch, capsys, "sensitivity", *model, *images, "--method", "one_pass", "--out", "found.json")
    assert code == 0
    assert "1 spans in one pass, 12 images" in out
    target = ["--target", "flops=0.7", "--input", "1x3x12x12", "--cheap", "absorbed"]
    by_table = ["convert", *model, *target, "--sensitivity", "found.json"]
    by_images = ["calibrate", *model, *target, *images]
    shapes = []
    for number, command in enumerate((by_table, by_images)):
        code, out, _ = run(monkeypatch, capsys, *command, "--out", f"{number}.safetensors")
        assert code == 0
        student = ghostify.load(folder / f"{number}.safetensors", factory=teacher)
        shapes.append({name: parameter.shape for name, parameter in student.named_parameters()})
    assert shapes[0] == shapes[1]
    assert shapes[0]["conv1.weight"][0] < 32


SWEEP = """
factory: swept_residual:build
weights: w.safetensors
images: few.npy
val: few.npy
out: swept
grid:
  ratio: [2, 4]
  method: [none]
"""


def test_a_sweep_from_a_file_and_its_front(monkeypatch, capsys, folder):
    torch.manual_seed(0)
    save_file(randomize(Residual()).state_dict(), folder / "w.safetensors")
    np.save(folder / "few.npy", torch.randn(12, 3, 12, 12).numpy())
    (folder / "swept_residual.py").write_text("from helpers.networks import Residual as build")
    (folder / "sweep.yaml").write_text(SWEEP)
    code, out, _ = run(monkeypatch, capsys, "sweep", "sweep.yaml")
    assert code == 0
    assert "3 trials" in out
    code, out, _ = run(monkeypatch, capsys, "sweep", "sweep.yaml", "--json")
    rows = json.loads(out)
    assert [row["ratio"] for row in rows] == [None, 2, 4]
    assert rows[0]["agreement"] == 1
    extras = ["--plot", "front.png", "--page", "page.html", "--csv", "table.csv"]
    code, out, _ = run(monkeypatch, capsys, "pareto", "swept", *extras)
    assert code == 0
    assert "best student" in out
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "plotly" in (folder / "page.html").read_text()
    assert len((folder / "table.csv").read_text().splitlines()) == 4
    code, out, _ = run(monkeypatch, capsys, "pareto", "swept", "--cost", "params", "--json")
    assert json.loads(out)[0]["params_share"] < 1
    for change, message in (
        ("grdi: {ratio: [2]}", "has the unknown setting 'grdi'; did you mean 'grid'?"),
        ("grid: {}", "grid is empty"),
        ("out: [", "is no YAML"),
    ):
        (folder / "bad.yaml").write_text(SWEEP.partition("grid:")[0].replace("out: swept", "out: other") + change)
        code, _, err = run(monkeypatch, capsys, "sweep", "bad.yaml")
        assert code == 2
        assert message in err.replace("\n", " ")
    for arguments in (["sweep", "none.yaml"], ["pareto", "none"], ["pareto", "swept", "--cost", "size"]):
        assert run(monkeypatch, capsys, *arguments)[0] == 2
