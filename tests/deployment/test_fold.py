"""fold(): the same outputs with less; what is folded and what is not, and why."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from helpers.networks import Residual, randomize
from torch import fx, nn

import ghostify
from ghostify.deployment.fold import for_inference
from ghostify.deployment.folded_ghost import FoldedGhost, GhostMaps
from ghostify.deployment.parted_maps import PartedMaps as Joined
from ghostify.layers.ghost_module import GhostModule


def student_of(model, cheap="auto", ratio=2, **settings):
    torch.manual_seed(0)
    return ghostify.convert(randomize(model), ratio, cheap=cheap, **settings).eval()


def assert_same(student, folded, *shape):
    x = torch.randn(2, *(shape or (3, 16, 16)))
    with torch.no_grad():
        wanted, given = student.double()(x.double()), folded.double()(x.double())
    torch.testing.assert_close(given, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def left(folded, kind):
    return {part.name: part.reason for part in folded.folding.parts if part.kind == kind and part.reason}


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
@pytest.mark.parametrize(
    "name",
    [
        *("torchvision/resnet50", "torchvision/vgg11_bn", "torchvision/densenet121", "torchvision/mobilenet_v2"),
        *("torchvision/efficientnet_b0", "torchvision/squeezenet1_1", "torchvision/shufflenet_v2_x0_5", "timm/regnety_002"),
        *("timm/resnet10t", "timm/convnext_atto", "timm/hardcorenas_a", "timm/dla34", "timm/repvgg_a0"),
        *("timm/res2net50_14w_8s", "timm/nfnet_l0", "timm/resnetv2_50", "timm/tf_efficientnet_b0", "timm/seresnext26d_32x4d"),
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


def test_a_sum_has_one_order_and_the_head_restores_it_after_the_pool():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 3, padding=1)
            self.a, self.b, self.c = (nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)) for _ in range(3))
            self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

        def forward(self, x):
            x = torch.relu(self.a(self.stem(x)))
            x = torch.relu(x + self.b(x))
            x = torch.relu(x + self.c(x))
            return self.head(self.pool(x).flatten(1))

    student = student_of(Net(), "pointwise")
    folded = ghostify.fold(student)
    assert_same(student, folded)
    ghosts = {name: module for name, module in folded.named_modules() if isinstance(module, FoldedGhost)}
    assert sum(module.order is not None for module in ghosts.values()) == len(ghosts) == 2
    assert len(left(folded, "channel order")) == 2
    restores = [node for node in folded.graph.nodes if getattr(node.target, "__name__", "") == "take_channels"]
    assert len(restores) == 1
    assert restores[0].args[0].target == "pool"


class Stream(nn.Module):
    """Blocks that add to one another."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList()
        for kernel in (3, 1, 3, 1):
            first = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
            self.blocks.append(nn.Sequential(*first, nn.Conv2d(32, 32, kernel, padding=kernel // 2), nn.BatchNorm2d(32)))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize("cheap", ["depthwise", "pointwise", "auto"])
def test_an_aligned_student_restores_no_order_in_its_sums(cheap):
    """Each block has another cheap operation with auto, and all have the same intrinsic channels."""
    torch.manual_seed(0)
    teacher, images = randomize(Stream()), torch.randn(32, 3, 16, 16)
    ghostify.reestimate_norms(teacher, images)
    teacher.eval()
    counts = []
    for align in (True, False):
        student = ghostify.convert(teacher, 2, cheap=cheap, skip=()).eval()
        ghostify.calibrate(student, teacher, images, method="least_squares", align=align)
        folded = ghostify.fold(student)
        assert_same(student, folded)
        student.float()
        counts.append(sum(isinstance(module, FoldedGhost) for module in folded.modules()))
        if align:
            assert not any(module.source is not None for module in folded.modules() if isinstance(module, GhostMaps))
            assert {name for name, module in folded.named_modules() if isinstance(module, Joined)} == {"pool.joined"}
    assert counts[0] == 0
    assert counts[1] >= 3


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
    student = student_of(torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=4))
    folded = ghostify.fold(student)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted, given = student(x)["out"], folded(x)["out"]
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    detector = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    student = student_of(detector)
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


class Tail(nn.Module):
    """Two Ghost modules, and what a test does with their maps."""

    def __init__(self, tail, **layers):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        for name in "ab":
            setattr(self, name, nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)))
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.tail, self.last = tail, nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.last(self.tail(self, self.a(x), self.b(x)))


def gated(net, a, b):
    return a * torch.sigmoid(net.expand(torch.relu(net.squeeze(a.mean((2, 3), keepdim=True)))))


def changed_in_place(net, a, b):
    c = a + b
    d = torch.relu_(c)
    return d + torch.sigmoid(c)  # of what relu_ left


TAILS = {
    "sum": (lambda net, a, b: torch.relu(a + b), {}, 0),
    "three uses": (lambda net, a, b: torch.relu(a + b) * a - b, {}, 0),
    "number": (lambda net, a, b: (2 * a + b / 3).clamp(0, 1), {}, 0),
    "pools": (lambda net, a, b: net.pool(a) + torch.nn.functional.avg_pool2d(b, 2), {"pool": nn.MaxPool2d(2)}, 0),
    "norm": (lambda net, a, b: torch.relu(net.norm(a + b)), {"norm": nn.BatchNorm2d(16)}, 0),
    "prelu": (lambda net, a, b: net.act(a) + net.act(b), {"act": nn.PReLU(16)}, 2),
    "prelu of a sum": (lambda net, a, b: net.act(a + b), {"act": nn.PReLU(16)}, 0),
    "depthwise": (lambda net, a, b: net.dw(a) + b, {"dw": nn.Conv2d(16, 16, 3, padding=1, groups=16)}, 0),
    "grouped": (lambda net, a, b: net.group(a + b), {"group": nn.Conv2d(16, 16, 3, padding=1, groups=4)}, 1),
    "gate": (gated, {"squeeze": nn.Conv2d(16, 4, 1), "expand": nn.Conv2d(4, 16, 1)}, 1),
    "with another tensor": (lambda net, a, b: a + b.new_ones(1, 16, 1, 1), {}, 2),
    "in place": (lambda net, a, b: a.add_(b).relu_(), {}, 0),
    "in place, read later": (changed_in_place, {}, 1),
    "in place, whole read later": (
        lambda net, a, b: (c := a + b).tanh_() + net.group(c),
        {"group": nn.Conv2d(16, 16, 3, padding=1, groups=4)},
        1,
    ),
    "joined in another dimension": (lambda net, a, b: torch.cat([a, b], dim=2), {}, 2),
    "indices": (lambda net, a, b: net.pool(a)[0] + net.pool(b)[0], {"pool": nn.MaxPool2d(2, return_indices=True)}, 2),
}


@pytest.mark.parametrize("name", TAILS)
def test_maps_stay_apart_as_far_as_they_can(name):
    """What runs on the parts gives what the whole gives; so many concatenations remain."""
    tail, layers, remaining = TAILS[name]
    # drawn at random, channels stand as they are made, so that both terms of a sum are parted alike
    student = student_of(Tail(tail, **layers), init="random", ratios={"*": None, "[ab].*": 2})
    folded = ghostify.fold(student)
    assert_same(student, folded)
    assert sum(isinstance(module, Joined) for module in folded.modules()) == remaining


def test_a_concatenation_of_ghosts_is_one():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 24, 1)
            self.last = nn.Conv2d(56, 8, 1)

        def forward(self, x):
            x = self.stem(x)
            return self.last(torch.cat([self.a(x), x, self.b(x)], 1))

    student = student_of(Net(), init="random", skip=("first",))
    folded = ghostify.fold(student)
    assert_same(student, folded)
    (cat,) = [node for node in folded.graph.nodes if node.target is torch.cat]
    assert len(cat.args[0]) == 5
    assert {name for name, module in folded.named_modules() if isinstance(module, Joined)} == {"last.joined"}


def test_convolutions_are_whole_where_sums_are_rounded():
    student = student_of(Tail(lambda net, a, b: torch.relu(a + b)), init="random", ratios={"*": None, "[ab].*": 2})
    folded = for_inference(student, True, split=False)
    assert_same(student, folded)
    assert [name for name, module in folded.named_modules() if isinstance(module, Joined)] == ["relu.joined"]
    assert folded.last.in_channels == 16


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/densenet121"])
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
