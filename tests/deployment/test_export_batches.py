"""export(): static files take exactly the batch that is given, dynamic ones any; failures give their cause."""

import pytest
import torch
from torch import nn

import ghostify
from ghostify.deployment.failure_reason import failure_reason


class Fixed(nn.Module):
    """Takes batches of one size alone."""

    def __init__(self, batch):
        super().__init__()
        self.batch, self.conv = batch, nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3)).view(self.batch, 8)


def taken(path):
    """The shape of the input that a file takes."""
    if path.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        return tuple(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].shape)
    if path.suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        return tuple(openvino.Core().read_model(path).inputs[0].shape)
    program = torch.export.load(path)
    (name,) = program.graph_signature.user_inputs
    return tuple(next(node.meta["val"].shape for node in program.graph.nodes if node.name == name))


class Wrapped(nn.Module):
    """Hands on whatever it is given, as torch's AveragedModel does."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1))

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("name", ["s.pt2", "s.onnx"])
@pytest.mark.parametrize("fold", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_network_of_any_arguments_takes_any_batch(tmp_path, name, fold):
    pytest.importorskip({".pt2": "torch", ".onnx": "onnxscript"}[(tmp_path / name).suffix])
    path = ghostify.export(Wrapped().eval(), tmp_path / name, example_input=(1, 3, 10, 10), fold=fold)
    assert taken(path)[0] != 1


@pytest.mark.parametrize("name", ["s.pt2", "s.onnx", pytest.param("s.xml", marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch", [1, 5])
def test_a_static_file_takes_the_batch_that_is_given(tmp_path, name, batch):
    pytest.importorskip({".pt2": "torch", ".onnx": "onnxscript", ".xml": "openvino"}[(tmp_path / name).suffix])
    shape = (batch, 3, 10, 10)
    path = ghostify.export(Fixed(batch), tmp_path / name, example_input=shape, dynamic_batch=False)
    assert taken(path) == shape


def test_a_network_of_one_batch_size_is_told_so(tmp_path):
    for batch, other in ((1, 2), (2, 1), (4, 2)):
        with pytest.raises(ghostify.ArgumentError, match=f"batches of {batch} and not of {other}: .* dynamic_batch=False"):
            ghostify.export(Fixed(batch), tmp_path / "s.pt2", example_input=(batch, 3, 10, 10))
    with pytest.raises(ghostify.ArgumentError, match="do not fit Fixed"):
        ghostify.export(Fixed(2), tmp_path / "s.pt2", example_input=(2, 4, 10, 10))


@pytest.mark.slow
def test_eight_bits_of_a_static_batch(tmp_path):
    pytest.importorskip("onnxruntime")
    images = torch.randn(10, 3, 10, 10)
    path = ghostify.export(
        Fixed(4), tmp_path / "s.onnx", example_input=(4, 3, 10, 10), int8=images, dynamic_batch=False, fold=False
    )
    assert taken(path) == (4, 3, 10, 10)
    with pytest.raises(ghostify.ArgumentError, match="int8 has 3 images, fewer than the 4"):
        ghostify.export(Fixed(4), path, example_input=(4, 3, 10, 10), int8=images[:3], dynamic_batch=False)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return self.conv(x) if x.sum().item() > 0 else self.conv(-x)


def test_a_failure_gives_its_cause(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ghostify.GhostifyError, match=r"onnx: Could not guard on data-dependent .*in forward") as caught:
        ghostify.export(Branches(), tmp_path / "s.onnx", example_input=(1, 3, 8, 8), fold=False)
    assert "\x1b" not in str(caught.value)
    assert "step 1/3" not in str(caught.value)


def test_reasons_without_banners():
    banner = RuntimeError("Failed to export the model. \x1b[96mThis is step 1/3\x1b[0m. Next steps:\n- Debug")
    banner.__cause__ = KeyError("weight")
    assert failure_reason(banner) == "KeyError: 'weight'"
    openvino = "Check 'false' failed at a.cpp:151:\nFrontEnd API failed with Failure:\nSummary:\n-- No rule for: aten::eig\n"
    assert failure_reason(RuntimeError(openvino)) == "No rule for: aten::eig"
    assert failure_reason(ValueError()) == "ValueError"
    assert failure_reason(RuntimeError("\x1b[31mit is red\x1b[0m")) == "it is red"
