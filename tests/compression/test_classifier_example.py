"""examples/compress_classifier.py, on a tiny network."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import ghostify

EXAMPLE = Path(__file__).parents[2] / "examples" / "compress_classifier.py"


@pytest.mark.slow
def test_a_classifier_of_ones_own_from_pictures_to_onnx(clock, monkeypatch, tmp_path, capsys):
    if not EXAMPLE.exists():
        pytest.skip("examples are not part of a source distribution")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, images = reds_and_blues(tmp_path / "pictures")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    options = {"model": "test_resnet", "weights": tmp_path / "weights.pth", "pictures": tmp_path / "pictures"}
    options |= {"max-drop": 0.3, "run": tmp_path / "run", "out": tmp_path / "small.onnx"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "top-1" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert (scores.argmax(1) == model(images).argmax(1).numpy()).mean() > 0.7
    assert (tmp_path / "small.onnx").stat().st_size < 0.9 * 4 * sum(p.numel() for p in model.parameters())


@torch.no_grad()
def reds_and_blues(folder):
    """A network that tells red pictures from blue ones, the pictures in a folder for each, and as the network takes them."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2).eval()
    transform, generator = create_transform(**resolve_data_config({}, model=model)), np.random.default_rng(0)
    images, labels = [], []
    for number in range(80):
        label = number % 2
        pixels = generator.integers(0, 128, (160, 160, 3), dtype=np.uint8)
        pixels[..., 2 * label] += 127
        path = folder / ("red", "blue")[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        images.append(transform(Image.open(path)))
        labels.append(int(label == 0))  # ImageFolder has blue before red
    x = torch.stack(images)
    ghostify.reestimate_norms(model, x)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    middle = features.mean(0)
    right = 2.0 * torch.eye(2)[labels] - 1
    model.fc.weight.copy_(torch.linalg.lstsq(features - middle, right, driver="gelsd").solution.T)
    model.fc.bias.copy_(-model.fc.weight @ middle)
    return model, x
