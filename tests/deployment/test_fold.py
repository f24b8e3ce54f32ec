"""fold(): the same outputs with less; what is folded and what is not, and why."""

import copy
import pickle

import pytest
import timm
import torch
from helpers.folding import assert_same, left, student_of
from helpers.networks import Residual, randomize
from helpers.scenes import detector
from helpers.segmenters import segmenter
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import ghostify
from ghostify.deployment.folded_ghost import FoldedGhost
from ghostify.layers.ghost_module import GhostModule

NAMES = [
    *("torchvision/resnet50", "torchvision/vgg11_bn", "torchvision/densenet121", "torchvision/mobilenet_v2"),
    *("torchvision/efficientnet_b0", "torchvision/squeezenet1_1", "torchvision/shufflenet_v2_x0_5", "timm/regnety_002"),
    *("timm/resnet10t", "timm/convnext_atto", "timm/hardcorenas_a", "timm/dla34", "timm/repvgg_a0"),
    *("timm/res2net50_14w_8s", "timm/nfnet_l0", "timm/resnetv2_50", "timm/tf_efficientnet_b0", "timm/seresnext26d_32x4d"),
]


@pytest.mark.parametrize(
    ("name", "cheap"),
    [
        *((name, "auto") for name in NAMES),
        *(pytest.param(name, ("depthwise", "pointwise")[i % 2], marks=pytest.mark.slow) for i, name in enumerate(NAMES)),
    ],
)
def test_outputs_are_those_of_the_student(name, cheap):
    student = student_of(ghostify.create_model(name, num_classes=5), cheap)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    folded = ghostify.fold(student)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())
    assert not any(isinstance(module, GhostModule) for module in folded.modules())
    assert_same(student, folded, 3, 64, 64)


def test_a_plain_chain_has_nothing_left():
    layers = [layer for i in range(4) for layer in (nn.Conv2d(3 if i == 0 else 32, 32, 3), nn.BatchNorm2d(32), nn.ReLU())]
    student = student_of(nn.Sequential(*layers, nn.Dropout(0.5), nn.MaxPool2d(2), nn.Conv2d(32, 5, 1)), ratio=3)
    folded = ghostify.fold(student)
    assert_same(student, folded, 3, 24, 24)
    assert isinstance(folded, fx.GraphModule)
    assert not left(folded, "norm")
    assert not left(folded, "channel order")
    names = {type(module).__name__ for module in folded.modules()}
    assert not names & {"BatchNorm2d", "Identity", "Dropout"}
    assert not any(isinstance(module, FoldedGhost) for module in folded.modules())  # one that restores an order stays whole
    assert "norm          7 of 7 folded" in str(folded.folding)


def test_what_cannot_be_folded_says_why():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)  # stays dense
            self.norm = nn.BatchNorm2d(16)
            self.last = nn.Conv2d(16, 16, 3)
            self.group = nn.GroupNorm(4, 16)
            self.pre = nn.BatchNorm2d(16)

        def forward(self, x):
            x = self.conv(x)
            return self.group(self.last(self.pre(torch.relu(self.norm(x) + x))))

    student = student_of(Net())
    folded = ghostify.fold(student)
    assert_same(student, folded)
    norms, orders = left(folded, "norm"), left(folded, "channel order")
    assert "other users" in norms["norm"]
    assert "not a convolution" in norms["pre"]
    assert "group" in orders["last"]
    frame = folded.folding.to_frame()
    assert set(frame["name"]) >= {"norm", "pre", "last"}
    assert "left as it was" in str(folded.folding)
    assert "FoldedGhost, not a conv" in left(ghostify.fold(student_of(Net(), skip=())), "norm")["norm"]


def test_parts_of_a_detector_and_a_whole_segmenter():
    student = student_of(segmenter("fcn"))
    folded = ghostify.fold(student)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted, given = student(x)["out"], folded(x)["out"]
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    student = student_of(detector("retinanet"))
    folded = ghostify.fold(student)
    with torch.no_grad():
        features = [model.backbone(x) for model in (student, folded)]
    for wanted, given in zip(*(list(f.values()) for f in features), strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert len(folded([torch.rand(3, 64, 64)])) == 1


def test_any_network_and_none():
    plain = randomize(Residual()).eval()
    folded = ghostify.fold(plain)
    assert_same(plain, folded)
    assert_same(plain, ghostify.fold(fx.symbolic_trace(plain)))
    again = ghostify.fold(folded)
    assert_same(plain, again)
    with pytest.raises(ghostify.ArgumentTypeError, match="student must be"):
        ghostify.fold("resnet18")
    with pytest.raises(ghostify.ArgumentError, match="is folded"):
        ghostify.save(folded, "never.safetensors")


def test_shared_layers_and_layers_read_from_outside_stay():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.norm = nn.BatchNorm2d(16)
            self.c = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.norm(self.a(x)))
            x = torch.relu(self.norm(self.b(x)))
            x = torch.relu(self.norm(self.b(x)))
            return self.c(x) * self.c.weight.mean()

    student = student_of(Net(), skip=(), ratios={"c": None})
    folded = ghostify.fold(student)
    assert_same(student, folded)
    assert "more than once" in left(folded, "norm")["norm"]


def test_a_ghost_module_that_is_called_twice_keeps_its_order():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
            self.register_buffer("centre", torch.zeros(16))

        def forward(self, x):
            self.centre = 0.9 * self.centre + self.b(self.a(x)).mean((0, 2, 3))
            return self.b(self.a(x)).mean((2, 3)) - self.centre

    student = ghostify.convert(Net().eval(), 2, cheap="depthwise", example_input=(2, 3, 8, 8))
    orders = [part for part in ghostify.fold(student, (2, 3, 8, 8)).folding.parts if part.kind == "channel order"]
    assert [part.name for part in orders] == ["b"]
    assert "more than once" in orders[0].reason


def test_three_and_one_dimensions():
    for conv, norm, size in ((nn.Conv1d, nn.BatchNorm1d, (3, 32)), (nn.Conv3d, nn.BatchNorm3d, (3, 12, 12, 12))):
        layers = [layer for i in range(3) for layer in (conv(3 if i == 0 else 16, 16, 3), norm(16), nn.ReLU())]
        student = student_of(nn.Sequential(*layers))
        folded = ghostify.fold(student)
        assert_same(student, folded, *size)
        assert not left(folded, "norm")


def test_a_folded_network_of_timm_keeps_no_training_only_part():
    student = student_of(timm.create_model("efficientnet_b0", drop_rate=0.2, drop_path_rate=0.2, num_classes=5))
    folded = ghostify.fold(student)
    assert_same(student, folded, 3, 64, 64)
    assert not any(type(module).__name__ in ("Dropout", "DropPath", "Identity") for module in folded.modules())


@pytest.mark.parametrize("name", ["torchvision/resnet18", pytest.param("torchvision/densenet121", marks=pytest.mark.slow)])
def test_a_folded_network_is_pickled_and_copied(name):
    """torch.fx keeps the code and traces it again."""
    folded = ghostify.fold(student_of(ghostify.create_model(name, num_classes=5), "depthwise"))
    assert "take_channels" in folded.code
    x = torch.randn(2, 3, 64, 64)
    for again in (pickle.loads(pickle.dumps(folded)), copy.deepcopy(folded)):
        assert torch.equal(again(x), folded(x))


def test_a_folded_network_folds_to_a_copy_and_is_not_saved(tmp_path):
    torch.manual_seed(0)
    folded = ghostify.fold(ghostify.convert(randomize(Residual())))
    again = ghostify.fold(folded)
    x = torch.randn(2, 3, 8, 8)
    assert again is not folded
    assert torch.equal(again(x), folded(x))
    with pytest.raises(ghostify.ArgumentError, match="is folded"):
        ghostify.save(folded, tmp_path / "s.safetensors")


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/mobilenet_v3_small"])
def test_a_folded_network_is_traced_again(name):
    """As torch.ao's prepare_fx and torchvision's feature extraction do."""
    folded = ghostify.fold(student_of(ghostify.create_model(name, num_classes=5), "depthwise"))
    x = torch.randn(2, 3, 64, 64)
    for given in (folded, copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        traced = fx.symbolic_trace(given)
        assert torch.equal(traced(x), folded(x))
        assert torch.equal(copy.deepcopy(traced)(x), folded(x))
    _, names = get_graph_node_names(folded)
    assert create_feature_extractor(folded, [names[-3]])(x)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_scripted_part_stays_as_it_is():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval())
    rest = (nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1))
    student = ghostify.convert(nn.Sequential(scripted, *rest).eval(), 2)
    x = torch.randn(2, 3, 12, 12)
    folded = ghostify.fold(student, example_input=x)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), student(x), rtol=1e-4, atol=1e-5)
