import pytest
import torch
import torchvision
from helpers.networks import Residual
from torch import nn

import ghostify
from ghostify import ArgumentError, GhostModule
from ghostify.common.costs import count_params, measure
from ghostify.inputs.examples import example_input


def fvcore_flops(model, arguments):
    """fvcore's count of the operations that ours counts: it also has norms and pooling."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model.eval(), arguments)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return sum(n for op, n in analysis.by_operator().items() if op in ("conv", "linear", "addmm", "matmul", "bmm", "einsum"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "regnet_x_400mf", "r3d_18", "vgg11"])
def test_flops_agree_with_fvcore(name):
    model = ghostify.create_model(f"torchvision/{name}")
    arguments = example_input(model)
    assert measure(model, arguments).flops == fvcore_flops(model, arguments)
    student = ghostify.convert(model, 3, cheap="auto")
    assert ghostify.report(student).after.flops == fvcore_flops(student, arguments)


def test_flops_of_transposed_convolutions():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.ConvTranspose2d(6, 6, 3, groups=3))
    costs = measure(model, (torch.zeros(1, 4, 5, 5),), ["0", "1"])
    assert costs.positions == {"0": 25, "1": 100}
    assert costs.flops == 25 * 4 * 6 * 4 + 100 * 6 * 2 * 9


def test_activation_memory_of_a_chain():
    """Input 1 x 4 x 8 x 8 counts for nobody; at the second layer its input and output live side by side."""
    model = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 1))
    kib = 8 * 8 * 4
    assert measure(model, (torch.zeros(1, 4, 8, 8),)).activation_bytes == (16 + 8) * kib


def test_activation_memory_counts_a_shortcut_that_waits():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            x = self.a(x)
            return self.c(self.b(x)).add_(x)

    assert measure(Net(), (torch.zeros(1, 1, 8, 8),)).activation_bytes == (4 + 16 + 4) * 8 * 8 * 4


def test_measuring_changes_nothing():
    model = Residual().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, (torch.randn(1, 3, 8, 8),))
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_code_that_needs_values_runs_on_the_cpu():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return self.conv(x) if x.sum().item() == 0 else None

    model = Net().train()
    costs = measure(model, (torch.zeros(1, 3, 5, 5),))
    assert costs.flops == 9 * 3 * 8 * 9
    assert model.training
    with pytest.raises(ArgumentError, match="does not fit Net"):
        measure(Net().to("meta"), (torch.zeros(1, 3, 5, 5),))


@pytest.mark.parametrize(
    "name", ["timm/efficientnet_b0", "torchvision/r3d_18", "torchvision/inception_v3", "torchvision/raft_small",
             "torchvision/fcn_resnet50", "torchvision/vit_b_16", "torchvision/googlenet"]
)  # fmt: skip
def test_known_inputs(name):
    model = ghostify.create_model(name, device="meta")
    costs = measure(model, example_input(model))
    assert costs.flops > 0


def test_unknown_input():
    assert example_input(Residual()) is None
    assert example_input(torchvision.models.resnet18())[0].shape == (1, 3, 224, 224)


def test_params_count_tied_tensors_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    assert count_params(nn.Sequential(a, b)) == 16 + 4 + 4


def test_params_of_a_ghost_module_follow_the_formula():
    n, m, inputs = 40, 20, 16
    module = GhostModule(inputs, n, 3)
    assert count_params(module) == m * inputs * 9 + (n - m) * 9 + 2 * n
