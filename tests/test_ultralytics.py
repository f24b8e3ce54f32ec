"""Students of Ultralytics' YOLO networks do what Ultralytics does with networks of its own. The guide's code runs."""

import copy
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.shapes import write_shapes
from torch.utils._pytree import tree_leaves

import ghostify

if importlib.util.find_spec("ultralytics") is None:
    pytest.skip("ultralytics is not installed; it is no dependency, because of its licence", allow_module_level=True)

GUIDE = Path(__file__).parents[1] / "docs" / "ultralytics.md"
SIZE = 64
PICTURE = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def own_settings(tmp_path_factory):
    """Ultralytics writes its settings into a folder of the test, and says little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_VERBOSE", "false")
        yield


@pytest.fixture(scope="module")
def blocks(own_settings):
    """What the guide's code defines: names of classes and functions."""
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        if re.search(r"^(class|def) ", block, re.MULTILINE):
            exec(compile(block, "guide", "exec"), names)
    return names


def make_yolo(name):
    """A network with weights and statistics of its own, in Ultralytics' wrapper, in evaluation mode."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    yolo = YOLO(f"{name}.yaml", verbose=False)
    for module in yolo.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    yolo.model.eval()
    return yolo


def converted(name, cheap, blocks):
    """The original, and a student of it in Ultralytics' wrapper, as the guide hands it over."""
    yolo = make_yolo(name)
    teacher = yolo.model
    yolo.model = ghostify.convert(teacher, 2, cheap=cheap)
    if cheap != "absorbed":
        blocks["leave_out_norms"](yolo.model)
    return teacher, yolo


@torch.no_grad()
def outputs(model, size=SIZE):
    torch.manual_seed(0)
    return [leaf for leaf in tree_leaves(model(torch.rand(1, 3, size, size))) if isinstance(leaf, torch.Tensor)]


def assert_same(got, expected, tolerance=1e-4):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert float((one - other).abs().max()) <= tolerance * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("cheap", ["absorbed", "depthwise"])
@pytest.mark.parametrize(
    "name",
    ["yolov8n", *(pytest.param(f"yolo11n{task}", marks=pytest.mark.slow) for task in ("", "-seg", "-cls", "-pose", "-obb"))],
)
def test_predicts_fuses_saves_and_exports(name, cheap, blocks, tmp_path, monkeypatch):
    import onnxruntime
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    teacher, yolo = converted(name, cheap, blocks)
    student = yolo.model
    for layer, original in zip(student.model, teacher.model, strict=True):
        assert (layer.i, layer.f, layer.type, layer.np) == (original.i, original.f, original.type, original.np)
    assert (student.names, student.yaml, student.stride.tolist()) == (teacher.names, teacher.yaml, teacher.stride.tolist())
    expected = outputs(student)
    assert len(yolo.predict(PICTURE, imgsz=SIZE, verbose=False)) == 1
    yolo.save("student.pt")
    loaded = YOLO("student.pt")
    assert type(loaded.model) is type(teacher)
    assert_same(outputs(loaded.model), outputs(copy.deepcopy(student).half().float()))
    wanted = outputs(loaded.model)[:1]
    session = onnxruntime.InferenceSession(YOLO("student.pt").export(format="onnx", imgsz=SIZE, simplify=False))
    torch.manual_seed(0)
    images = torch.rand(1, 3, SIZE, SIZE)
    assert_same([torch.from_numpy(session.run(None, {"images": images.numpy()})[0])], wanted, 1e-3)
    scripted = torch.jit.load(YOLO("student.pt").export(format="torchscript", imgsz=SIZE))
    assert_same(tree_leaves(scripted(images))[:1], wanted)
    yolo.fuse()
    assert student.is_fused()
    assert_same(outputs(student), expected)


def test_fuse_says_which_students_it_takes():
    yolo = make_yolo("yolov8n")
    yolo.model = ghostify.convert(yolo.model, 2)
    with pytest.raises(AttributeError, match="cheap='absorbed'"):
        yolo.fuse()


@pytest.mark.slow
@pytest.mark.parametrize("cheap", ["absorbed", "depthwise"])
def test_its_trainer_keeps_the_student(cheap, blocks, tmp_path, monkeypatch):
    from ultralytics import YOLO
    from ultralytics.nn.tasks import DetectionModel

    monkeypatch.chdir(tmp_path)
    data = str(write_shapes(tmp_path / "shapes"))
    yolo = make_yolo("yolov8n")
    yolo.model = ghostify.convert(DetectionModel("yolov8n.yaml", nc=2, verbose=False).eval(), 2, cheap=cheap)
    if cheap != "absorbed":
        blocks["leave_out_norms"](yolo.model)
    yolo.save("student.pt")
    student, yolo = yolo.model, YOLO("student.pt")
    settings = {"imgsz": SIZE, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False, "amp": False}
    yolo.train(trainer=blocks["StudentTrainer"], data=data, epochs=1, project=str(tmp_path / "runs"), **settings)
    trained = yolo.model
    assert trained.names == {0: "circle", 1: "square"}
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (student, trained)]
    assert shapes[0] == shapes[1]
    assert any(not torch.equal(p, q.half()) for p, q in zip(student.parameters(), trained.parameters(), strict=True))
    before, after = (ghostify.report(model, (1, 3, SIZE, SIZE)) for model in (student, trained))
    assert before.after == after.after
    assert yolo.val(data=data, imgsz=SIZE, workers=0, plots=False, verbose=False).box.map >= 0


def test_ghostify_saves_and_loads(tmp_path):
    yolo = make_yolo("yolov8n")
    student = ghostify.convert(yolo.model, 2, cheap="absorbed")
    ghostify.save(student, tmp_path / "student.safetensors")
    loaded = ghostify.load(tmp_path / "student.safetensors", factory=lambda: make_yolo("yolov8n").model)
    assert_same(outputs(loaded.eval()), outputs(student), 0)


def test_a_network_that_was_fused_converts():
    yolo = make_yolo("yolov8n")
    yolo.fuse()
    student = ghostify.convert(yolo.model.eval(), 2, cheap="absorbed")
    before = outputs(student)
    with torch.no_grad():
        student.model[1].conv.weight.zero_()
    assert any(not torch.equal(one, other) for one, other in zip(before, outputs(student), strict=True))


@pytest.mark.slow
def test_the_guide_runs(tmp_path, monkeypatch):
    from ultralytics.nn.tasks import DetectionModel

    monkeypatch.chdir(tmp_path)
    write_shapes(tmp_path / "shapes", images=8, size=96)
    yolo = make_yolo("yolov8n")
    yolo.model = DetectionModel("yolov8n.yaml", nc=2, verbose=False).eval()
    yolo.save("shapes.pt")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(compile(block.replace("epochs=20", "epochs=1").replace("steps=200", "steps=2"), "guide", "exec"), names)
    assert (tmp_path / "student.onnx").exists()
    assert type(names["yolo"].model) is DetectionModel
