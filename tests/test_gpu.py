"""The same on a GPU as on the CPU; skipped where there is none."""

import contextlib
import copy
import json

import pytest
import torch
from helpers.absorption import absorbed, calls_of, free_spans
from helpers.networks import Residual, randomize

import ghostify
from ghostify import Recipe
from ghostify.absorption.survey import survey_spans
from ghostify.deployment.runtimes import RUNTIMES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True)
def exact():
    """Convolutions in float32 itself, and sums in one order."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return randomize(Residual(32)).eval()


@pytest.fixture
def images():
    return torch.randn(128, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _devices(model):
    return {tensor.device.type for tensor in model.state_dict().values()}


def _apart(one, other):
    return float((one.cpu() - other.cpu()).norm() / other.cpu().norm())


@pytest.mark.parametrize("method", ["least_squares", "block"])
def test_calibration(teacher, images, method):
    outputs = []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(teacher).to(device)
        student = ghostify.convert(model, 2, cheap="auto")
        ghostify.calibrate(student, model, images.to(device), method=method)
        assert _devices(student) == {device}
        with torch.no_grad():
            outputs.append(student.eval()(images.to(device)).cpu())
    with torch.no_grad():
        wanted = teacher(images)
    assert abs(_apart(outputs[0], wanted) - _apart(outputs[1], wanted)) < 0.05


def test_a_survey_and_what_it_absorbs(teacher, images):
    spans = free_spans(teacher)
    kept, weights = [], []
    for device in ("cpu", "cuda"):
        model = copy.deepcopy(teacher).to(device)
        survey = survey_spans(model, spans, calls_of(*images.to(device).split(64)), {span.makers[0]: 20 for span in spans})
        assert _devices(absorbed(model, survey)) == {device}
        kept.append({name: one.kept.tolist() for name, one in survey.spans.items()})
        weights.append(survey.readers["conv2"].weight)
    assert kept[0] == kept[1]
    assert _apart(weights[1], weights[0]) < 1e-3


def test_images_on_the_cpu_find_their_way(teacher, images):
    model = teacher.cuda()
    student = ghostify.convert(model, 2)
    ghostify.calibrate(student, model, images)
    assert _devices(student) == {"cuda"}
    ghostify.reestimate_norms(student, images)
    assert "128 images" in str(ghostify.evaluate(student, images, teacher=model))


def test_sensitivity_and_budget(teacher, images):
    found = [
        ghostify.sensitivity(copy.deepcopy(teacher).to(device), images.to(device), (2, 4)).to_frame()
        for device in ("cpu", "cuda")
    ]
    assert found[0].shape == found[1].shape
    close = (found[0].select_dtypes("number") - found[1].select_dtypes("number")).abs().to_numpy()
    assert close.max() < 1e-2
    model = teacher.cuda()
    student = ghostify.convert(model, target={"flops": 0.7}, example_input=images[:1].cuda())
    assert _devices(student) == {"cuda"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_distillation(teacher, images, precision, channels_last, tmp_path):
    model = teacher.cuda()
    student = ghostify.convert(model, 2)
    recipe = Recipe(steps=60, batch_size=32, lr=0.02, precision=precision, channels_last=channels_last, ema=0.99, clip=1.0)
    told = ghostify.distill(student, model, images, val=images, recipe=recipe, out=tmp_path)
    assert told.epochs[-1].loss < told.epochs[1].loss
    assert _devices(student) == {"cuda"}
    assert _devices(model) == {"cuda"}


def test_a_student_on_the_cpu_is_trained_on_the_gpu_and_stays_where_it_was(teacher, images):
    student = ghostify.convert(teacher, 2)
    ghostify.distill(student, teacher, images, recipe=Recipe(steps=20, batch_size=32, lr=0.02))
    assert _devices(student) == _devices(teacher) == {"cpu"}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_interrupted_run_goes_on(teacher, images, tmp_path, precision):
    results = []
    for interrupted in (False, True):
        student = ghostify.convert(teacher, 2)
        recipe = Recipe(epochs=4, batch_size=32, lr=0.02, precision=precision)
        folder = tmp_path / str(interrupted)
        if interrupted:
            calls = iter(range(100))

            def batches(limit=10, calls=calls):
                for start in range(0, len(images), 32):
                    if next(calls) == limit:
                        raise KeyboardInterrupt
                    yield images[start : start + 32]

            class Loader:
                def __len__(self):
                    return 4

                def __iter__(self):
                    return batches()

            with pytest.raises(KeyboardInterrupt):
                ghostify.distill(student, teacher, Loader(), recipe=recipe, out=folder, checkpoint_seconds=0)
        plain = [images[start : start + 32] for start in range(0, len(images), 32)]
        ghostify.distill(student, teacher, plain, recipe=recipe, out=folder, resume=interrupted)
        with torch.no_grad():
            results.append(student.eval()(images))
    assert _apart(*results) < 1e-3


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if RUNTIMES[name].cuda])
def test_latency(teacher, runtime):
    student = ghostify.convert(teacher, 2)
    report = ghostify.latency({"dense": teacher, "student": student}, (3, 16, 16), runtimes=[runtime], repeats=2)
    assert all(timing.problem is None and timing.seconds > 0 for timing in report.timings)


def test_only_if_faster(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with contextlib.suppress(ghostify.UnsupportedModelError):  # nothing may be faster
        ghostify.convert(teacher, 2, only_if_faster="cuda", example_input=(1, 3, 16, 16))
    assert len(json.loads((tmp_path / "ghostify" / "latency.json").read_text())) >= 2


def test_saved_and_loaded(teacher, images, tmp_path):
    student = ghostify.convert(teacher.cuda(), 2)
    ghostify.save(student, tmp_path / "student.safetensors")
    again = ghostify.load(tmp_path / "student.safetensors", lambda: Residual(32))
    assert all(torch.equal(again.state_dict()[name], tensor.cpu()) for name, tensor in student.state_dict().items())


def test_fold_and_export(teacher, images, tmp_path):
    student = ghostify.convert(teacher.cuda(), 2).eval()
    folded = ghostify.fold(student)
    with torch.no_grad():
        assert _apart(folded(images.cuda()), student(images.cuda())) < 1e-5
    assert ghostify.export(student, tmp_path / "student.onnx", example_input=images[:1]).exists()


def test_segmentation():
    torch.manual_seed(0)
    model = ghostify.create_model("torchvision/lraspp_mobilenet_v3_large").eval().cuda()
    images = torch.rand(4, 3, 64, 64)
    student = ghostify.convert(model, 2)
    ghostify.calibrate(student, model, images)
    ghostify.distill(student, model, images, recipe=Recipe(steps=3, batch_size=2, lr=1e-3))
    assert _devices(student) == {"cuda"}


def test_detection():
    torch.manual_seed(0)
    model = ghostify.create_model("torchvision/ssdlite320_mobilenet_v3_large").eval().cuda()
    images = [torch.rand(3, 96, 96) for _ in range(2)]
    student = ghostify.convert(model, 2)
    ghostify.calibrate(student, model, [images])
    ghostify.distill(student, model, [images], recipe=Recipe(steps=2, lr=1e-4))
    assert _devices(student) == {"cuda"}
