"""The table of operations states what torch computes."""

import copy
import inspect

import pytest
import torch
from torch import fx, nn

import ghostify
from ghostify.graph.functions_as_modules import activation_from, activation_of_function, describe_activation
from ghostify.graph.operations import OPERATIONS, is_channelwise, is_global_pool, is_mean_over_places, is_pair

DIMS = {"1d": 1, "3d": 3}


def call_of(key, *more):
    """A graph that calls an operation of the table, with arguments besides its input, and the node of the call."""
    graph = fx.Graph()
    kind = "call_method" if isinstance(key, str) else "call_function"
    node = graph.create_node(kind, key, (graph.placeholder("x"), *more))
    graph.output(node)
    return fx.GraphModule(nn.Module(), graph), node


def name_of(value):
    return value if isinstance(value, str) else getattr(value, "__name__", str(value))


def selected(condition):
    return [pytest.param(key, id=name_of(key)) for key, operation in OPERATIONS.items() if condition(operation)]


def arguments_for(key):
    name = name_of(key)
    if name == "interpolate":
        return (8,)
    if name.startswith("clamp"):
        return (0.2,)
    if "dropout" in name:
        return (0.5, False)
    return ((1,) if "adaptive" in name else (2,)) if "pool" in name else ()


@pytest.mark.parametrize("key", selected(lambda operation: operation.channelwise))
def test_channelwise_operations_treat_each_channel_by_itself_and_all_alike(key):
    dims = next((dims for name, dims in DIMS.items() if name in name_of(key)), 2)
    maps, order = torch.randn(2, 5, *[6] * dims), torch.randperm(5)
    if inspect.isclass(key):
        if key.__name__.startswith("_"):
            pytest.skip("a base class, whose subclasses differ in their arguments")
        pooled = "Pool" in key.__name__
        operation = (key(1) if pooled else key(scale_factor=2) if key is nn.Upsample else key()).eval()
    else:
        operation, node = call_of(key, *arguments_for(key))
        assert is_channelwise(node, None)
    torch.testing.assert_close(operation(maps[:, order].clone()), operation(maps.clone())[:, order], equal_nan=True)


@pytest.mark.parametrize("key", selected(lambda operation: operation.activation))
def test_activation_functions_compute_what_their_modules_compute(key):
    function, node = call_of(key)
    module = activation_of_function(node)
    x = torch.randn(3, 4)
    assert torch.equal(function(x.clone()), module(x))
    assert repr(activation_from(describe_activation(module))) == repr(module)


def test_unknown_operations_are_taken_to_mix_channels():
    assert not is_channelwise(call_of(torch.softmax, 1)[1], None)
    assert not is_channelwise(call_of("flip", (1,))[1], None)


@pytest.mark.parametrize(("pads", "of_places"), [((1, 1), True), ((1, 1, 1, 1), True), ((0, 0, 0, 0, 1, 1), False)])
def test_padding_is_channelwise_where_it_pads_places(pads, of_places):
    assert is_channelwise(call_of(nn.functional.pad, pads)[1], None) is of_places


@pytest.mark.parametrize(
    ("dims", "keep", "over_places", "global_"),
    [((2, 3), True, True, True), ((2,), True, True, False), ((1, 2, 3), True, False, False), ((2, 3), False, False, False)],
)
def test_means_over_places(dims, keep, over_places, global_):
    node = call_of("mean", dims, keep)[1]
    assert (is_mean_over_places(node), is_global_pool(node, None)) == (over_places, global_)


def test_a_module_called_add_is_no_sum():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.add = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 1)

        def forward(self, x):
            return self.add(torch.relu(self.first(x)))

    assert not any(is_pair(node) for node in fx.symbolic_trace(Net()).graph.nodes)
    student = ghostify.convert(Net(), 2, ratios={"add": None}, skip=(), min_channels=1).eval()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ghostify.fold(copy.deepcopy(student))(x), student(x), rtol=1e-4, atol=1e-5)
