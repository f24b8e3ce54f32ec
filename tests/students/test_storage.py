import json
import pickle
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from helpers.networks import Residual, randomize
from safetensors import safe_open
from safetensors.torch import save_file
from torch import fx, nn

import ghostify
from ghostify.common.tensors import checksum
from ghostify.distillation.checkpoint import load_state
from ghostify.students.storage import KEY
from ghostify.students.weights import load_weights


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return randomize(Residual()).eval()


def same(model, other, *shape):
    x = torch.randn(2, *(shape or (3, 8, 8)))
    with torch.no_grad():
        return torch.equal(model.eval()(x), other(x)) and all(
            torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items()
        )


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
def test_a_calibrated_student_comes_back_from_its_file(teacher, tmp_path, cheap):
    student = ghostify.convert(teacher, 2, cheap=cheap, ratios={"conv2": 4}, linear_ratio=2).eval()
    ghostify.calibrate(student, teacher, torch.randn(64, 3, 8, 8), method="least_squares")
    ghostify.save(student, tmp_path / "s.safetensors")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    for factory in (teacher, Residual):
        again = ghostify.load(tmp_path / "s.safetensors", factory)
        assert not again.training
        assert same(student, again)
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
    assert same(student, ghostify.load(tmp_path / "s.safetensors"), 3, 64, 64)


def test_another_number_of_classes_and_of_input_channels_is_found(tmp_path):
    for model, shape in (
        (timm.create_model("resnet18", num_classes=7, in_chans=4), (4, 32, 32)),
        (torchvision.models.resnet18(num_classes=7), (3, 32, 32)),
    ):
        student = ghostify.convert(model)
        ghostify.save(student, tmp_path / "s.safetensors")
        assert same(student, ghostify.load(tmp_path / "s.safetensors"), *shape)


def test_modules_that_ask_for_a_version_of_their_state_load_it_from_files(tmp_path):
    model = torchvision.models.mnasnet0_75()
    student = ghostify.convert(model)
    ghostify.save(student, tmp_path / "s.safetensors")
    assert same(student, ghostify.load(tmp_path / "s.safetensors"), 3, 64, 64)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    again = torchvision.models.mnasnet0_75().eval()
    load_weights(again, tmp_path / "weights.safetensors")
    assert same(model, again, 3, 64, 64)
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
        assert same(student, again)
        assert isinstance(again, fx.GraphModule) == isinstance(student, fx.GraphModule)


def test_a_plain_state_dict_goes_into_a_student_converted_anew(teacher):
    student = ghostify.convert(teacher, 2)
    again = ghostify.convert(randomize(Residual(), seed=3), 2)
    again.load_state_dict(student.state_dict())
    assert same(student, again.eval())


def test_a_folder_goes_to_the_hub_and_back(tmp_path):
    student = ghostify.convert(torchvision.models.resnet18(num_classes=4))
    ghostify.HubStudent(student).save_pretrained(tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} >= {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["architecture"]["name"] == "torchvision/resnet18"
    again = ghostify.HubStudent.from_pretrained(str(tmp_path / "hub"))
    assert same(student, again.student, 3, 32, 32)
    assert same(student, ghostify.load(tmp_path / "hub"), 3, 32, 32)
    ghostify.save(student, tmp_path / "folder")
    assert same(student, ghostify.load(tmp_path / "folder"), 3, 32, 32)


# bad files


@pytest.fixture
def file(tmp_path, teacher):
    ghostify.save(ghostify.convert(teacher, 2, linear_ratio=2), tmp_path / "s.safetensors")
    return tmp_path / "s.safetensors"


def refused(path, factory=Residual):
    with pytest.raises(ghostify.ArgumentError) as error:
        ghostify.load(path, factory)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_hundred_flipped_bits_and_a_hundred_truncations_are_noticed(file):
    whole = file.read_bytes()
    chance = random.Random(0)
    damaged = file.with_name("damaged.safetensors")
    for _ in range(100):
        at, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        refused(damaged)
    for _ in range(100):
        damaged.write_bytes(whole[: chance.randrange(len(whole))])
        refused(damaged)


def rewritten(path, change):
    """The file with another header; its checksum is made to fit."""
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()[KEY])
    tensors = load_file(path)
    del told["checksum"]
    change(told)
    told["checksum"] = checksum(tensors, told)
    save_file(tensors, path, {"format": "pt", KEY: json.dumps(told)})
    return path


def site(told, **fields):
    next(r for r in told["recipe"]["sites"] if r["name"] == "conv1").update(fields)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda told: told["recipe"].update(format=99), "format 99.*newer"),
        (lambda told: told["recipe"].update(format="x"), "damaged"),
        (lambda told: told["recipe"].pop("sites"), "damaged"),
        (lambda told: told["recipe"]["sites"].append(told["recipe"]["sites"][0]), "damaged"),
        (lambda told: told.update(recipe=None), "damaged"),
        (lambda told: told.pop("class"), "damaged"),
        (lambda told: site(told, intrinsic=12), "another network.*conv1"),
        (lambda told: site(told, intrinsic=10**12), "damaged.*conv1"),
        (lambda told: site(told, intrinsic="8"), "damaged.*conv1"),
        (lambda told: site(told, dw_size=10**9 + 1), "damaged.*conv1"),
        (lambda told: site(told, cheap="os.system"), "damaged.*conv1"),
        (lambda told: site(told, out_channels=32), "another network: 'conv1' has .*32"),
        (lambda told: site(told, name="conv9"), "no layer 'conv9'"),
        (lambda told: site(told, kind="linear"), "'conv1' is a Conv2d"),
        (lambda told: site(told, norm="head"), "'head' is a Linear"),
        (lambda told: site(told, act=None, shared_act=None, function={"class": "system"}), "no activation"),
        (lambda told: site(told, reason="not converted", ratio=None), "another network"),
    ],
)
def test_headers_that_lie_are_refused(file, change, match):
    assert re.search(match, refused(rewritten(file, change)))


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "timm/resnet18", "settings": {"checkpoint_path": "/etc/passwd"}},
        {"name": "hf-hub:someone/evil", "settings": {}},
        {"name": "timm/resnet18", "settings": {"num_classes": 10**13}},
        {"name": ["timm/resnet18"], "settings": {}},
        {"settings": {}},
        "timm/resnet18",
    ],
)
def test_architectures_that_lie_are_refused(tmp_path, architecture):
    ghostify.save(ghostify.convert(timm.create_model("resnet18")), tmp_path / "s.safetensors")
    refused(rewritten(tmp_path / "s.safetensors", lambda told: told.update(architecture=architecture)), None)


def test_other_files_are_refused(tmp_path, file, teacher):
    (tmp_path / "p.safetensors").write_bytes(pickle.dumps({"weight": [1.0] * 100}))
    assert "no safetensors file" in refused(tmp_path / "p.safetensors")
    torch.save(teacher.state_dict(), tmp_path / "t.safetensors")
    assert "no safetensors file" in refused(tmp_path / "t.safetensors")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10_000_000_000]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tmp_path / "b.safetensors")
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", 10_000_000_000) + b"{}")
    refused(tmp_path / "h.safetensors")
    assert "does not exist" in refused(tmp_path / "none.safetensors")
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    assert "no recipe" in refused(tmp_path / "w.safetensors")
    assert "another network" in refused(file, lambda: Residual(24))
    assert "no layer" in refused(file, lambda: nn.Sequential(nn.Conv2d(3, 16, 3)))


def test_indices_that_lead_out_of_the_maps_are_refused(file):
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()[KEY])
    del told["checksum"]
    names = [name for name in tensors if name.endswith("channel_order")]
    assert names
    for change, match in ((lambda index: index + 5, "no permutation"), (torch.Tensor.float, "no whole numbers")):
        bad = {**tensors, names[0]: change(tensors[names[0]])}
        save_file(bad, file, {"format": "pt", KEY: json.dumps({**told, "checksum": checksum(bad, told)})})
        assert match in refused(file)


def test_what_is_no_student_is_not_saved(teacher, tmp_path):
    with pytest.raises(ghostify.ArgumentError, match="not made by"):
        ghostify.save(teacher, tmp_path / "t.safetensors")
    with pytest.raises(ghostify.ArgumentTypeError, match="student must be"):
        ghostify.save({"a": 1}, tmp_path / "t.safetensors")
    with pytest.raises(ghostify.UnsupportedModelError, match="compiled"):
        ghostify.save(torch.compile(ghostify.convert(teacher)), tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import ghostify
from helpers.networks import Residual
student = ghostify.convert(Residual(64), 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
try:
    ghostify.save(student, sys.argv[2])
except ghostify.ArgumentError as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_the_file_that_was_there(file):
    before = file.read_bytes()
    told = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(Path(__file__).parents[1]), str(file)], capture_output=True, text=True, check=True
    )
    assert "can't be written" in told.stdout
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
