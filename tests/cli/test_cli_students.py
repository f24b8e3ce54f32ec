"""Commands that report on students and make them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from helpers.cli import run
from helpers.networks import Residual, randomize
from safetensors.torch import load_file, save_file

import ghostify


def test_report_table_and_json(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "report", "torchvision/resnet18", "--set", "layer4.*=4", "--set", "layer1.*=dense")
    assert code == 0
    assert "kept dense by ratios" in out
    code, out, _ = run(monkeypatch, capsys, "report", "torchvision/resnet18", "--ratio", "2", "--json")
    report = ghostify.Report.from_json(out)
    assert report == ghostify.report(ghostify.convert(ghostify.create_model("torchvision/resnet18", device="meta")))


def test_report_with_either_counter(monkeypatch, capsys, folder):
    command = ("report", "torchvision/mobilenet_v3_small", "--input", "1x3x64x64", "--json")
    outputs = [run(monkeypatch, capsys, *command, "--counter", name)[1] for name in ("torch", "fvcore")]
    by_torch, by_fvcore = map(ghostify.Report.from_json, outputs)
    assert by_fvcore.rows == by_torch.rows
    assert (by_fvcore.before.flops, by_fvcore.after.flops) == (by_torch.before.flops, by_torch.after.flops)
    code, _, said = run(monkeypatch, capsys, *command, "--counter", "fingers")
    assert code == 2
    assert "counter must be one of 'torch', 'fvcore', not 'fingers'" in " ".join(said.split())


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


@pytest.mark.slow
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
