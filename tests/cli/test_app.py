"""The command as a whole: help, mistakes, names of models, quick imports."""

import json
import subprocess
import sys

import pytest
from helpers.cli import run
from helpers.networks import Residual
from safetensors.torch import save_file

import ghostify


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, capsys, "--version")[:2] == (0, f"ghostify {ghostify.__version__}\n")


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
