"""Students with absorbed ghosts are plain narrower networks: folding and export have nothing to restore."""

import pytest
import torch
from helpers.folding import assert_same, left, student_of
from helpers.networks import Residual
from helpers.scenes import detector
from helpers.segmenters import IMAGES, segmenter
from torch import nn

import ghostify
from ghostify.deployment.folded_ghost import FoldedGhost
from ghostify.deployment.formats import onnx_session, openvino_request

NAMES = ["torchvision/resnet18", "timm/regnety_002", "torchvision/shufflenet_v2_x0_5", "timm/dla34"]
SLOW = ["torchvision/mobilenet_v2", "torchvision/densenet121", "timm/efficientnet_b0", "timm/convnext_atto", "timm/nfnet_l0"]


def restored(folded: nn.Module) -> list[str]:
    """The modules and nodes that put channels into another order."""
    graphs = [module.graph for module in folded.modules() if hasattr(module, "graph")]
    nodes = [node.name for graph in graphs for node in graph.nodes if getattr(node.target, "__name__", "") == "take_channels"]
    return nodes + [name for name, module in folded.named_modules() if isinstance(module, FoldedGhost)]


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_folded_student_gives_the_same_and_restores_nothing(name):
    student = student_of(ghostify.create_model(name, num_classes=5), "absorbed")
    folded = ghostify.fold(student)
    assert_same(student, folded, 3, 64, 64)
    assert restored(folded) == []
    assert "channel order" not in folded.folding.summary()


@pytest.mark.parametrize(
    ("conv", "norm", "size"), [(nn.Conv1d, nn.BatchNorm1d, (3, 32)), (nn.Conv3d, nn.BatchNorm3d, (3, 9, 9, 9))]
)
def test_one_and_three_dimensions(conv, norm, size, tmp_path):
    layers = [layer for i in range(3) for layer in (conv(3 if i == 0 else 16, 16, 3), norm(16), nn.ReLU())]
    student = student_of(nn.Sequential(*layers), "absorbed", skip=())
    assert student[3].in_channels == student[3].out_channels == 8
    folded = ghostify.fold(student)
    assert_same(student, folded, *size)
    assert "norm          3 of 3 folded" in str(folded.folding)
    pytest.importorskip("onnxruntime")
    student.float()
    run = onnx_session(ghostify.export(student, tmp_path / "s.onnx", example_input=(1, *size)), 1)
    x = torch.randn(3, *size)
    with torch.no_grad():
        torch.testing.assert_close(run(x)[0], student(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("file", ["s.onnx", "s.xml"])
def test_the_file_gives_what_the_student_gives(file, tmp_path):
    pytest.importorskip("onnxruntime" if file == "s.onnx" else "openvino")
    student = student_of(Residual(32), "absorbed")
    path = ghostify.export(student, tmp_path / file, example_input=(1, 3, 16, 16))
    run = onnx_session(path, 1) if file == "s.onnx" else openvino_request(str(path), 1)
    x = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(run(x)[0], student(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["s.onnx", "s.xml"])
def test_eight_bits(file, tmp_path):
    pytest.importorskip("onnxruntime" if file == "s.onnx" else "nncf")
    images = torch.randn(32, 3, 16, 16)
    student = student_of(Residual(32), "absorbed")
    path = ghostify.export(student, tmp_path / file, int8=images)
    run = onnx_session(path, 1) if file == "s.onnx" else openvino_request(str(path), 1)
    with torch.no_grad():
        wanted = student(images)
    given = run(images)[0]
    assert not torch.equal(given, wanted)
    assert float((given - wanted).norm() / wanted.norm()) < 0.3


def test_a_loaded_student_folds_to_the_same(tmp_path):
    student = student_of(Residual(32), "absorbed")
    ghostify.save(student, tmp_path / "s.safetensors")
    again = ghostify.load(tmp_path / "s.safetensors", lambda: Residual(32)).eval()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(ghostify.fold(again)(x), ghostify.fold(student)(x))


@pytest.mark.parametrize(
    "kind", ["faster", "retinanet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mask", "ssd"))]
)
def test_detectors(kind):
    student = student_of(detector(kind), "absorbed")
    folded = ghostify.fold(student)
    assert not left(folded, "norm")
    x = torch.rand(1, 3, 96, 112)
    with torch.no_grad():
        wanted, given = (model.double().backbone(x.double()) for model in (student, folded))
    pairs = zip(wanted.values(), given.values(), strict=True) if isinstance(wanted, dict) else [(wanted, given)]
    for one, other in pairs:
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6 * float(one.abs().max()))
    with torch.no_grad():
        first, second = (model([x[0].double()])[0] for model in (student, folded))
    assert first.keys() == second.keys()
    torch.testing.assert_close(second["boxes"], first["boxes"], rtol=1e-5, atol=1e-5)
    assert restored(folded) == []


@pytest.mark.parametrize("kind", ["fcn", "lraspp", "deeplab"])
def test_segmenters(kind):
    student = student_of(segmenter(kind), "absorbed").double()
    folded = ghostify.fold(student)
    with torch.no_grad():
        wanted, given = student(IMAGES.double()), folded(IMAGES.double())
    assert wanted.keys() == given.keys()
    for key, maps in wanted.items():
        torch.testing.assert_close(given[key], maps, rtol=1e-6, atol=1e-6 * float(maps.abs().max()))
    assert restored(folded) == []


def test_a_network_with_nothing_to_fold_says_so():
    student = student_of(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)), "absorbed", skip=())
    folded = ghostify.fold(student)
    assert str(folded.folding) == "nothing to fold: no norm, no Ghost module, no identity"
    assert_same(student, folded)
