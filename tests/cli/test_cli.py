import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from helpers.networks import Residual, randomize
from safetensors.torch import load_file, save_file

import ghostify
from ghostify.cli import app as cli


def run(monkeypatch, capsys, *arguments):
    """Exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["ghostify", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


FACTORY = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU())

def number():
    return 3

def needs(width):
    return nn.Conv2d(3, width, 3)

def counts():
    rates = [x.item() for x in torch.linspace(0, 1, 3)]
    return nn.Sequential(build(), nn.Dropout(rates[1]))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "--version")[:2] == (0, f"ghostify {ghostify.__version__}\n")


def test_report_table_and_json(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "report", "torchvision/resnet18", "--set", "layer4.*=4", "--set", "layer1.*=dense")
    assert code == 0
    assert "kept dense by ratios" in out
    code, out, _ = run(monkeypatch, capsys, "report", "torchvision/resnet18", "--ratio", "2", "--json")
    report = ghostify.Report.from_json(out)
    assert report == ghostify.report(ghostify.convert(ghostify.create_model("torchvision/resnet18", device="meta")))


def test_report_of_a_factory_and_a_plot(monkeypatch, capsys, folder):
    code, out, _ = run(monkeypatch, capsys, "report", "--factory", "mynets:build", "--input", "1x3x16x16", "--plot", "bars.png")
    assert code == 0
    assert "1 of 2 sites converted" in out
    assert (folder / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert run(monkeypatch, capsys, "report", "--factory", "mynets:counts")[0] == 0  # does not build without values


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_convert_writes_a_file_that_loads(monkeypatch, capsys, tmp_path, suffix):
    model = randomize(torchvision.models.resnet18())
    weights, out = tmp_path / f"w.{suffix}", tmp_path / "student.safetensors"
    if suffix == "pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, weights)
    else:
        save_file(model.state_dict(), weights)
    arguments = ("--weights", str(weights), "--ratio", "2", "--out", str(out), "--json")
    code, _, _ = run(monkeypatch, capsys, "convert", "torchvision/resnet18", *arguments)
    assert code == 0
    x = torch.randn(1, 3, 64, 64)
    wanted = ghostify.convert(model).eval()(x)
    assert torch.equal(ghostify.load(out)(x), wanted)
    anew = ghostify.convert(torchvision.models.resnet18())
    anew.load_state_dict(load_file(out))
    assert torch.equal(anew.eval()(x), wanted)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_calibrate_writes_a_student_that_is_calibrated(monkeypatch, capsys, folder):
    torch.manual_seed(0)
    teacher = randomize(Residual())
    save_file(teacher.state_dict(), folder / "w.safetensors")
    images = torch.randn(40, 3, 12, 12)
    np.save(folder / "few.npy", images.numpy())
    (folder / "residual.py").write_text("from helpers.networks import Residual as build")
    arguments = ["--factory", "residual:build", "--weights", "w.safetensors", "--images", "few.npy", "--out", "s.safetensors"]
    code, out, _ = run(monkeypatch, capsys, "calibrate", *arguments, "--plot", "errors.png")
    assert code == 0
    assert "2 of 2 sites fitted to 40 images" in out
    assert (folder / "errors.png").read_bytes().startswith(b"\x89PNG")
    wanted = ghostify.convert(teacher, cheap="auto").eval()
    ghostify.calibrate(wanted, teacher.eval(), images)
    written = load_file(folder / "s.safetensors")
    assert written.keys() == wanted.state_dict().keys()
    assert all(torch.allclose(written[name], value) for name, value in wanted.state_dict().items())


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


def test_recover_calibrates_trains_and_goes_on(monkeypatch, capsys, folder):
    torch.manual_seed(0)
    teacher = randomize(Residual()).eval()
    save_file(teacher.state_dict(), folder / "w.safetensors")
    np.save(folder / "few.npy", torch.randn(40, 3, 12, 12).numpy())
    (folder / "residual.py").write_text("from helpers.networks import Residual as build")
    arguments = ["recover", "--factory", "residual:build", "--weights", "w.safetensors", "--train", "few.npy", "--out", "run"]
    code, out, _ = run(monkeypatch, capsys, *arguments, "--steps", "3")
    assert code == 0
    assert "3 steps" in out
    student = ghostify.load(folder / "run" / "student.safetensors", factory=teacher)
    start = ghostify.load(folder / "run" / "calibrated.safetensors", factory=teacher)
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), start.parameters(), strict=True))
    code, _, err = run(monkeypatch, capsys, *arguments, "--steps", "3")
    assert code == 2
    assert "resume=True goes on" in err
    code, again, _ = run(monkeypatch, capsys, *arguments, "--steps", "3", "--resume")
    assert (code, again) == (0, out)
    code, _, err = run(monkeypatch, capsys, *arguments[:-1], "other", "--recipe", "shrot")
    assert code == 2
    assert "few_shot, short, full" in err


def test_recover_with_two_processes(folder):
    torch.manual_seed(0)
    save_file(randomize(Residual()).eval().state_dict(), folder / "w.safetensors")
    np.save(folder / "few.npy", torch.randn(40, 3, 12, 12).numpy())
    (folder / "residual.py").write_text("from helpers.networks import Residual as build")
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "ghostify",
        "recover",
    ]
    options = {"factory": "residual:build", "weights": "w.safetensors", "train": "few.npy", "out": "run", "steps": "3"}
    command = launcher + [part for name, value in options.items() for part in (f"--{name}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1  # one of them speaks
    assert (folder / "run" / "student.safetensors").exists()


def test_zoo(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "zoo", "torchvision/resnet*")
    assert code == 0
    assert "torchvision/resnet50" in out.splitlines()
    code, out, _ = run(monkeypatch, capsys, "zoo", "*resnet50", "--json")
    assert {"timm/resnet50", "torchvision/resnet50"} <= set(json.loads(out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "resnet51"], "did you mean"),
        (["report"], "either the name of a model or --factory"),
        (["report", "resnet18", "--factory", "mynets:build"], "either the name"),
        (["report", "resnet18", "--ratio", "1"], "ratio must be"),
        (["report", "resnet18", "--cheap", "dear"], "cheap must be"),
        (["report", "resnet18", "--set", "layer1"], "not of the form GLOB=RATIO"),
        (["report", "resnet18", "--set", "layer1.*=two"], "not of the form GLOB=RATIO"),
        (["report", "resnet18", "--set", "layer9.*=2"], "matches no convolution"),
        (["report", "--factory", "nowhere:build"], "can't be imported"),
        (["report", "--factory", "mynets:absent"], "can't be imported"),
        (["report", "--factory", "mynets"], "can't be imported"),
        (["report", "--factory", "mynets:needs"], "can't be called without arguments"),
        (["report", "resnet18", "--set", "[xyz]*=4"], "ratios['[xyz]*'] matches no"),
        (["zoo", "[/x]"], "'[/x]'"),
        (["report", "resnet18", "--plot", "nowhere/p.png"], "--plot 'nowhere/p.png' can't be written"),
        (["report", "--factory", "mynets:build", "--plot", "p.png"], "give --input"),
        (["convert", "resnet18", "--pretrained", "--out", "."], "--out '.' can't be written"),
        (["report", "--factory", "mynets:number"], "returned int"),
        (["report", "--factory", "mynets:build", "--input", "large"], "not of the form 1x3x224x224"),
        (["report", "--factory", "mynets:build", "--input", "1x4x9x9"], "does not fit"),
        (["convert", "resnet18", "--out", "x.safetensors"], "give --weights FILE or --pretrained"),
        (["convert", "resnet18", "--weights", "none.pth", "--out", "x.safetensors"], "does not exist"),
        (["convert", "resnet18", "--weights", "a", "--pretrained", "--out", "x.safetensors"], "not both"),
        (["convert", "--factory", "mynets:build", "--pretrained", "--out", "x.safetensors"], "goes with a model name"),
        (["convert", "--factory", "mynets:build", "--target", "half", "--out", "x.safetensors"], "not of the form flops=0.5"),
        (["convert", "--factory", "mynets:build", "--target", "flops=0.5", "--out", "x.safetensors"], "needs an example_input"),
        (["convert", "--factory", "mynets:build", "--sensitivity", "s", "--out", "x.safetensors"], "goes with target="),
        (["convert", "--factory", "mynets:build", "--only-if-faster", "eager", "--out", "x.safetensors"], "an example_input"),
        (["bench", "--factory", "mynets:build", "--only-if-faster", "npu", "--input", "1x3x9x9"], "runtime must be one of"),
        (["sensitivity", "resnet18", "--images", ".", "--out", "x.json"], "give --weights FILE or --pretrained"),
        (["zoo", "nothing*here"], "no model is called like"),
        (["calibrate", "--factory", "mynets:build", "--images", "none", "--out", "x.safetensors"], "neither a folder"),
        (["calibrate", "resnet18", "--images", ".", "--out", "x.safetensors"], "give --weights FILE or --pretrained"),
    ],
)
def test_mistakes_end_with_one_sentence_and_code_2(monkeypatch, capsys, folder, arguments, message):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err
    assert out == ""
    assert not (folder / "x.safetensors").exists()


def test_help_has_examples(monkeypatch, capsys):
    for command in ("report", "convert", "calibrate", "sensitivity", "recover", "sweep", "pareto", "zoo"):
        code, out, _ = run(monkeypatch, capsys, command, "--help")
        assert code == 0
        assert "Examples:" in out


def test_demo(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "demo", "--json")
    assert code == 0
    original, student = json.loads(out)
    assert student["params"] < 0.6 * original["params"]
    assert student["flops"] < 0.6 * original["flops"]
    assert student["calibrated"] > 0.9
    assert student["calibrated"] > student["accuracy"]
    assert student["recovered"] > 0.9
    assert student["seconds"] > 0


def test_demo_fails_when_the_student_does_not_work(monkeypatch, capsys):
    from ghostify import demo

    monkeypatch.setattr(demo, "IMAGES", 1)
    monkeypatch.setattr(demo, "EPOCHS", 3)
    monkeypatch.setattr(demo, "STEPS", 1)
    code, _, err = run(monkeypatch, capsys, "demo", "--ratio", "30", "--json")
    assert code == 2
    assert "behind the original" in err


def test_import_is_light():
    """The heavy libraries wait until they are needed."""
    heavy = ("timm", "torchvision", "pandas", "matplotlib", "sklearn", "rich", "typer", "accelerate")
    script = f"import sys, ghostify; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_factory_weights_mismatch(monkeypatch, capsys, folder):
    save_file(Residual().state_dict(), folder / "w.safetensors")
    code, _, err = run(
        monkeypatch,
        capsys,
        "convert",
        "--factory",
        "mynets:build",
        "--weights",
        "w.safetensors",
        "--out",
        "x.safetensors",
    )
    assert code == 2
    assert "another architecture" in err.replace("\n", " ")


def test_only_if_faster(monkeypatch, capsys, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for most, code in ((1e9, 0), (0, 2)):  # whatever the clock says, and whatever it says
        monkeypatch.setattr("ghostify.conversion.only_if_faster.MOST", most)
        options = ["--factory", "mynets:build", "--input", "1x3x16x16", "--only-if-faster", "eager", "--out", "s.safetensors"]
        found, _, error = run(monkeypatch, capsys, "convert", *options)
        assert found == code, error
    assert "not faster on eager" in error.replace("\n", " ")
    assert (folder / "cache" / "ghostify" / "latency.json").exists()


def test_export_and_bench(monkeypatch, capsys, folder):
    model = ["--factory", "mynets:build"]
    assert run(monkeypatch, capsys, "convert", *model, "--out", "s.safetensors")[0] == 0
    code, out, _ = run(monkeypatch, capsys, "export", "s.safetensors", *model, "--input", "1x3x16x16", "--out", "s.pt2")
    assert code == 0
    assert "same outputs" in out
    assert torch.export.load(folder / "s.pt2").module()(torch.randn(3, 3, 16, 16)).shape[0] == 3
    code, _, error = run(monkeypatch, capsys, "export", "s.safetensors", "--input", "1x3x16x16", "--out", "s.pt2")
    assert (code, "factory" in error) == (2, True)
    options = ["--input", "1x3x16x16", "--runtimes", "eager,channels_last", "--batch-sizes", "1,2", "--repeats", "1", "--json"]
    code, out, _ = run(monkeypatch, capsys, "bench", *model, *options)
    assert code == 0
    assert len(json.loads(out)["timings"]) == 8
    code, _, error = run(monkeypatch, capsys, "bench", *model, "--batch-sizes", "1.5")
    assert (code, "whole numbers" in error) == (2, True)
