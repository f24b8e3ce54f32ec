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
