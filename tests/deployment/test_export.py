"""export(): the file gives what PyTorch gives, whatever the batch; errors leave no file."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from helpers.networks import Residual, randomize
from torch import nn

import ghostify
import ghostify.deployment.export
from ghostify.deployment.formats import onnx_session, openvino_request
from ghostify.deployment.runtimes import RUNTIMES

SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return ghostify.convert(randomize(Residual(32)), 2, cheap="auto").eval()


def reloaded(path):
    if path.suffix == ".onnx":
        return onnx_session(path, 1)
    if path.suffix == ".xml":
        return openvino_request(str(path), 1)
    module = torch.export.load(path).module()
    return lambda x: [module(x)]


def needs(name):
    missing = RUNTIMES[name].missing()
    return pytest.mark.skipif(missing is not None, reason=str(missing))


FILES = [
    pytest.param("s.onnx", marks=needs("onnxruntime")),
    pytest.param("s.xml", marks=needs("openvino")),
    "s.pt2",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fold", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_file_gives_what_the_student_gives(student, tmp_path, name, fold):
    path = ghostify.export(student, tmp_path / name, example_input=SHAPE, fold=fold)
    assert path == tmp_path / name
    run = reloaded(path)
    for size in (1, 5):
        x = torch.randn(size, *SHAPE[1:])
        with torch.no_grad():
            torch.testing.assert_close(run(x)[0], student(x), rtol=1e-3, atol=1e-4)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES[:2])
def test_networks_of_the_zoo(tmp_path, name):
    torch.manual_seed(0)
    model = ghostify.convert(randomize(torchvision.models.mobilenet_v3_small(num_classes=5)), 2).eval()
    run = reloaded(ghostify.export(model, tmp_path / name))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(run(x)[0], model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"example_input": (1, 4, 16, 16)}, "do not fit"),
        ({"example_input": SHAPE, "int8": torch.zeros(2, 3, 8, 8)}, "int8 has"),
    ],
)
def test_an_input_that_does_not_fit_is_told_and_leaves_no_file(student, tmp_path, given, words):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ghostify.ArgumentError, match=words):
        ghostify.export(student, tmp_path / "s.onnx", **given)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_and_ends_nothing(student, tmp_path):
    """In a process of its own, whose files may have 20 kB."""
    ghostify.save(student, tmp_path / "student.safetensors")
    script = f"""
import resource, signal, sys
import ghostify
import ghostify.deployment.export
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from helpers.networks import Residual
student = ghostify.load({str(tmp_path / "student.safetensors")!r}, lambda: Residual(32))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    ghostify.export(student, {str(tmp_path / "full" / "s.pt2")!r}, example_input={SHAPE})
except ghostify.ArgumentError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "can't be written" in done.stdout
    assert not list((tmp_path / "full").iterdir())


def test_what_is_no_path_is_told(student):
    for call in (ghostify.save, ghostify.export):
        with pytest.raises(ghostify.ArgumentTypeError, match="path must be a path, not 5"):
            call(student, 5)
    with pytest.raises(ghostify.ArgumentTypeError, match="path must be a path, not None"):
        ghostify.load(None)
    with pytest.raises(ghostify.ArgumentTypeError, match="path must be a path, not ''"):
        ghostify.save(student, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES[:2])
def test_eight_bits(tmp_path, name):
    if name == "s.xml":
        pytest.importorskip("nncf")
    torch.manual_seed(0)
    model = randomize(Residual(32)).eval()
    images = torch.randn(32, *SHAPE[1:])
    small = ghostify.convert(model, 2, cheap="auto").eval()
    run = reloaded(ghostify.export(small, tmp_path / name, int8=images))
    with torch.no_grad():
        wanted = small(images)
    given = run(images)[0]
    assert not torch.equal(given, wanted)
    assert float((given - wanted).norm() / wanted.norm()) < 0.3


def test_a_file_that_differs_is_an_error_and_is_not_left(student, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys.modules["ghostify.deployment.export"], "for_inference", lambda *args, **settings: Residual(32).eval()
    )
    before = tmp_path / "s.pt2"
    before.write_text("mine")
    wrong = sys.modules["ghostify.deployment.export"]._write
    monkeypatch.setattr(
        sys.modules["ghostify.deployment.export"], "_write", lambda *args: (lambda run: lambda x: [run(x)[0] + 1])(wrong(*args))
    )
    with pytest.raises(ghostify.GhostifyError, match="gives other outputs than PyTorch"):
        ghostify.export(student, before, example_input=SHAPE)
    assert before.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["s.pt2"]


@pytest.mark.parametrize("much", [0, 1e5])
def test_a_network_that_makes_much_of_rounding_may_differ_by_as_much(tmp_path, monkeypatch, much):
    class Rounded(nn.Module):
        def forward(self, x):
            return (x + much) - much  # of a size of 1e5, float32 knows no less than 0.008

    module = sys.modules["ghostify.deployment.export"]
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *args: lambda x: [write(*args)(x)[0] + 4e-3])
    path = tmp_path / "r.pt2"
    if much:
        assert ghostify.export(Rounded(), path, example_input=SHAPE).exists()
    else:
        with pytest.raises(ghostify.GhostifyError, match="gives other outputs than PyTorch"):
            ghostify.export(Rounded(), path, example_input=SHAPE)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x) if bool(x.sum() > 1e9) else self.conv(x) + 1


BAD = {
    "no model": (lambda s, d: ghostify.export(3, d / "a.onnx"), "student must be"),
    "suffix": (lambda s, d: ghostify.export(s, d / "a.tflite"), "ends in none of .onnx, .pt2, .xml"),
    "format": (lambda s, d: ghostify.export(s, d / "a.onnx", "tflite"), "format must be one of"),
    "both": (lambda s, d: ghostify.export(s, d / "a.onnx", "torch"), "must end in '.pt2'"),
    "no input": (lambda s, d: ghostify.export(s, d / "a.pt2"), "needs an example_input such as .*: Residual"),
    "int8": (lambda s, d: ghostify.export(s, d / "a.pt2", int8=torch.rand(2, 3, 16, 16)), "int8 goes with format"),
    "shape": (lambda s, d: ghostify.export(s, d / "a.pt2", example_input=(1, 0, 3, 3)), "size below 1"),
    "control flow": (lambda s, d: ghostify.export(Odd(), d / "a.pt2", example_input=SHAPE), "Odd can't be exported as torch"),
    "folder": (lambda s, d: ghostify.export(s, d / "file" / "a.pt2", example_input=SHAPE), "can't be written"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_writes_nothing(student, tmp_path, name):
    (tmp_path / "file").write_text("a file")
    call, message = BAD[name]
    with pytest.raises(ghostify.GhostifyError, match=message):
        call(student, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_is_not_installed_is_said(student, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ghostify.ArgumentError, match=r"needs onnxscript: pip install 'ghostify\[deploy\]'"):
        ghostify.export(student, tmp_path / "a.onnx", example_input=SHAPE)


class Named(nn.Module):
    """A network that gives a text beside its maps."""

    def __init__(self, name):
        super().__init__()
        self.conv, self.name = nn.Conv2d(3, 8, 3), name

    def forward(self, x):
        return {"maps": self.conv(x), "name": self.name}


@needs("onnxruntime")
def test_an_output_that_is_no_tensor_is_named(tmp_path):
    with pytest.raises(ghostify.GhostifyError, match=r"its output\['name'\] is a str, not a tensor"):
        ghostify.export(Named("maps").eval(), tmp_path / "named.onnx", example_input=SHAPE)
    assert not list(tmp_path.iterdir())


@needs("onnxruntime")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_part_that_is_refused_is_named(tmp_path):
    model = nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3)), nn.ReLU()).eval()
    with pytest.raises(ghostify.GhostifyError, match="its part '0' is TorchScript"):
        ghostify.export(model, tmp_path / "scripted.onnx", example_input=SHAPE)


def test_a_network_without_weights_is_refused(tmp_path):
    with pytest.raises(ghostify.ArgumentError, match="student is on the meta device and has no weights"):
        ghostify.export(Residual().to("meta"), tmp_path / "none.pt2", example_input=SHAPE)
