"""save() and load(): the student comes back, and what is no student is not saved."""

import pytest
import timm
import torch
import torchvision
from helpers.networks import Residual, randomize
from helpers.storage import same_student
from safetensors.torch import save_file
from torch import fx, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import ghostify
from ghostify.distillation.checkpoint import load_state
from ghostify.students.weights import load_weights


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
def test_a_calibrated_student_comes_back_from_its_file(teacher, tmp_path, cheap):
    student = ghostify.convert(teacher, 2, cheap=cheap, ratios={"conv2": 4}, linear_ratio=2).eval()
    ghostify.calibrate(student, teacher, torch.randn(64, 3, 8, 8), method="least_squares")
    ghostify.save(student, tmp_path / "s.safetensors")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for factory in (teacher, Residual):
        again = ghostify.load(tmp_path / "s.safetensors", factory)
        assert not again.training
        assert same_student(student, again)
        assert ghostify.report(again, (1, 3, 8, 8)).after == ghostify.report(student, (1, 3, 8, 8)).after
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize(
    "wanted", ["timm/resnet18", "torchvision/resnet18", "torchvision/mobilenet_v3_small", "timm/regnety_002"]
)
def test_students_of_the_zoo_need_no_factory(tmp_path, wanted):
    library, _, name = wanted.partition("/")
    torch.manual_seed(0)
    model = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    student = ghostify.convert(model, 2, cheap="auto")
    ghostify.save(student, tmp_path / "s.safetensors")
    assert same_student(student, ghostify.load(tmp_path / "s.safetensors"), 3, 64, 64)


def test_another_number_of_classes_and_of_input_channels_is_found(tmp_path):
    for model, shape in (
        (timm.create_model("resnet18", num_classes=7, in_chans=4), (4, 32, 32)),
        (torchvision.models.resnet18(num_classes=7), (3, 32, 32)),
    ):
        student = ghostify.convert(model)
        ghostify.save(student, tmp_path / "s.safetensors")
        assert same_student(student, ghostify.load(tmp_path / "s.safetensors"), *shape)


def test_modules_that_ask_for_a_version_of_their_state_load_it_from_files(tmp_path):
    model = torchvision.models.mnasnet0_75()
    student = ghostify.convert(model)
    ghostify.save(student, tmp_path / "s.safetensors")
    assert same_student(student, ghostify.load(tmp_path / "s.safetensors"), 3, 64, 64)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = torchvision.models.mnasnet0_75().eval()
    load_weights(again, tmp_path / "weights.safetensors")
    assert same_student(model, again, 3, 64, 64)
    load_state(again, {name: value + 1 for name, value in model.state_dict().items()}, tmp_path)
    assert torch.equal(again.classifier[1].bias, model.classifier[1].bias + 1)


def test_what_the_zoo_does_not_build_asks_for_its_factory(tmp_path):
    model = torchvision.models.resnet18()
    model.maxpool = nn.Identity()
    ghostify.save(ghostify.convert(model), tmp_path / "s.safetensors")
    with pytest.raises(ghostify.ArgumentError, match=r"torchvision\.models\.resnet\.ResNet.*factory="):
        ghostify.load(tmp_path / "s.safetensors")
    with pytest.raises(ghostify.ArgumentTypeError, match="factory"):
        ghostify.load(tmp_path / "s.safetensors", 5)


def test_what_a_state_dict_lacks_comes_from_the_network_itself(tmp_path):
    class Odd(Residual):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.full((3, 1, 1), 0.5), persistent=False)
            self.scale = torch.full((1,), 2.0)
            self.twin = nn.Linear(16, 10)
            self.twin.weight = self.head.weight

        def forward(self, x):
            return super().forward((x - self.mean) * self.scale)

    student = ghostify.convert(Odd()).bfloat16()
    ghostify.save(student, tmp_path / "s.safetensors")
    again = ghostify.load(tmp_path / "s.safetensors", Odd)
    assert again.twin.weight is again.head.weight
    assert all(value.dtype == again.state_dict()[name].dtype for name, value in student.state_dict().items())
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again.float()(x), student.float().eval()(x))


def test_functions_shared_activations_and_graph_modules(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.PReLU(16, 0.3)
            self.convs = nn.ModuleList([nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(4)])

        def forward(self, x):
            x = self.act(self.convs[1](self.act(self.convs[0](x))))
            x = nn.functional.leaky_relu(self.convs[2](x), 0.2)
            return nn.functional.hardtanh(self.convs[3](x), -2, 2)

    for factory in (Shared, lambda: fx.symbolic_trace(Shared())):
        student = ghostify.convert(factory(), 2)
        ghostify.save(student, tmp_path / "s.safetensors")
        again = ghostify.load(tmp_path / "s.safetensors", factory)
        assert same_student(student, again)
        assert isinstance(again, fx.GraphModule) == isinstance(student, fx.GraphModule)


def test_a_plain_state_dict_goes_into_a_student_converted_anew(teacher):
    student = ghostify.convert(teacher, 2)
    again = ghostify.convert(randomize(Residual(), seed=3), 2)
    again.load_state_dict(student.state_dict())
    assert same_student(student, again.eval())


def test_what_is_no_student_is_not_saved(teacher, tmp_path):
    with pytest.raises(ghostify.ArgumentError, match="not made by"):
        ghostify.save(teacher, tmp_path / "t.safetensors")
    with pytest.raises(ghostify.ArgumentTypeError, match="student must be"):
        ghostify.save({"a": 1}, tmp_path / "t.safetensors")
    with pytest.raises(ghostify.UnsupportedModelError, match="compiled"):
        ghostify.save(torch.compile(ghostify.convert(teacher)), tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


DERIVED = {
    "prune.remove": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "remove_weight_norm": nn.utils.weight_norm,
    "remove_spectral_norm": nn.utils.spectral_norm,
    "remove_parametrizations": nn.utils.parametrizations.weight_norm,
}


@pytest.mark.parametrize("advice", DERIVED)
def test_a_student_is_not_saved_with_weights_that_only_it_derives(tmp_path, advice):
    def original(derived):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(3)))
        if derived:
            DERIVED[advice](network[1])
        return network.eval()

    student = ghostify.convert(original(False), 2)
    DERIVED[advice](student[0])
    with pytest.raises(ghostify.ArgumentError, match=f"'0' is .*{advice}"):
        ghostify.save(student, tmp_path / "s.safetensors")
    assert not list(tmp_path.iterdir())
    student = ghostify.convert(original(True), 2)
    assert advice in {row.name: row.reason for row in ghostify.report(student, (1, 3, 9, 9)).rows}["1"]
    ghostify.save(student, tmp_path / "s.safetensors")
    assert same_student(student, ghostify.load(tmp_path / "s.safetensors", lambda: original(True)), 3, 9, 9)


def test_what_holds_a_student_is_not_one(tmp_path):
    student = ghostify.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)), 2)
    with pytest.raises(ghostify.ArgumentError, match=r"it holds a student: pass its \.module"):
        ghostify.save(AveragedModel(student), tmp_path / "s.safetensors")


def test_a_network_with_state_dicts_of_its_own_comes_back(tmp_path):
    class Own(nn.Sequential):
        def state_dict(self, *args, **kwargs):
            return {"weights": super().state_dict(*args, **kwargs), "epoch": 3}

        def load_state_dict(self, state, **kwargs):
            raise RuntimeError("wants weights and epoch")

    def network():
        return Own(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))

    torch.manual_seed(0)
    teacher, x = network().eval(), torch.randn(40, 3, 8, 8)
    student = ghostify.convert(teacher, 2)
    ghostify.calibrate(student, teacher, x, method="least_squares")
    ghostify.save(student, tmp_path / "own.safetensors")
    with torch.no_grad():
        assert torch.equal(ghostify.load(tmp_path / "own.safetensors", network)(x), student(x))


def test_a_student_without_weights_is_refused(tmp_path):
    student = ghostify.convert(Residual().to("meta"), 2)
    with pytest.raises(ghostify.ArgumentError, match="student is on the meta device and has no weights"):
        ghostify.save(student, tmp_path / "none.safetensors")
    assert not list(tmp_path.iterdir())
