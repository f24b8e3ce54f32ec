"""Networks of torchvision with heads that only training calls: their students work in training, too."""

import pytest
import torch
import torchvision
from torch import nn

import ghostify
from ghostify.graph.network_spans import find_network_spans

NETWORKS = {"googlenet": (224, ("aux1", "aux2")), "inception_v3": (299, ("AuxLogits",))}


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_a_student_works_in_both_modes(name):
    size, heads = NETWORKS[name]
    model = getattr(torchvision.models, name)(weights=None, aux_logits=True, init_weights=False, num_classes=5).eval()
    student = ghostify.convert(model, 2, cheap="absorbed")
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert student(x).shape == model(x).shape
    outputs = student.train()(x)
    assert len(outputs) == 1 + len(heads)
    sum(output.sum() for output in outputs).backward()
    for head in heads:
        kept, wanted = (network.get_submodule(head) for network in (student, model))
        first = next(layer for layer in kept.modules() if isinstance(layer, nn.Conv2d))
        assert first.in_channels == next(layer for layer in wanted.modules() if isinstance(layer, nn.Conv2d)).in_channels
        assert first.weight.grad.abs().sum() > 0


def test_what_heads_read_is_not_free_and_the_rest_is():
    model = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    reasons = {maker: span.reason for span in find_network_spans(model.eval()) for maker in span.makers}
    reason = "heads that are called only in training may read its maps"
    assert reasons["inception4a.branch1.conv"] == reasons["inception4d.branch4.1.conv"] == reason
    assert reasons["inception3a.branch1.conv"] == reasons["inception4b.branch2.0.conv"] == ""


class Recorded(nn.Module):
    """A network that does not trace, with a layer that nothing calls, and a head of training if it is to have one."""

    def __init__(self, helped: bool):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3), nn.Conv2d(24, 4, 1)
        self.helper, self.helped = nn.Conv2d(16, 4, 1), helped

    def forward(self, x):
        if x.shape[-1] % 2:
            raise RuntimeError("the width must be even")
        maps = self.a(x).relu()
        out = self.head(self.b(maps).relu())
        return (out, self.helper(maps)) if self.helped and self.training else out


@pytest.mark.parametrize("helped", [False, True])
def test_a_layer_that_nothing_calls_bars_maps_of_a_recorded_network_only_if_training_calls_it(helped):
    student = ghostify.convert(Recorded(helped).eval(), cheap="absorbed", skip=())
    assert student.a.out_channels == (16 if helped else 8)
    assert student.b.out_channels == 12
    outputs = student.train()(torch.randn(2, 3, 16, 16))
    assert len(outputs) == 2
