"""Graphs of what networks really do, where torch.fx stops or drops a branch."""

import dataclasses
import types
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from helpers.recording import Small, called, check, forward_of, images, outputs_of, whole
from torch import Tensor, nn

from ghostify.graph.find_sites import find_sites, trace_layers
from ghostify.graph.probes import is_same


def test_what_traces_and_is_right_is_what_torch_fx_traces():
    model = forward_of(lambda self, x: self.head(self.norm(self.conv(self.stem(x))).relu().mean((2, 3))))
    symbolic, known = trace_layers(model), trace_layers(model, ((images(),), {}))
    assert str(symbolic[0].graph) == str(known[0].graph)


def test_a_recorded_graph_has_the_form_that_torch_fx_gives():
    def forward(self, x):
        y = self.stem(x if self.plain else self.checked(x))
        y = torch.flatten((1 - self.norm(self.conv(y)).relu() * 2 + y / 3).pow(2), 2)
        y = torch.cat([y, -y], 1)[:, :8]
        return self.head(F.silu(y).mean(2)), y.view(y.shape[0], -1)

    model = forward_of(forward)
    model.plain = True
    symbolic = trace_layers(model)[0].graph
    model.plain = False
    recorded = check(model)
    assert (
        recorded.nodes
        and [(n.op, n.target) for n in recorded.nodes] == [(n.op, n.target) for n in symbolic.nodes if n.target is not F.silu]
    ) or called(recorded) == called(symbolic)


def test_sizes_are_those_of_the_images_at_hand():
    def forward(self, x):
        n, _, h, w = self.checked(x).shape
        y = F.interpolate(self.conv(self.stem(x)), size=(h // 2, w // 2))
        y = F.interpolate(y, size=x.shape[-2:])
        ramp = torch.linspace(0, 1, w, dtype=x.dtype).expand(n, 1, h, w)
        zeros = torch.zeros(x.size(0), 1, h, 2 * w - w)
        y = torch.cat([y, ramp, zeros, x.new_ones(n, 1, h, w)], 1)
        return y.reshape(n, -1, h * w).transpose(1, 2), torch.arange(h * w) + y.flatten(2).sum(1)

    check(forward_of(forward), sides=(6, 12))


def test_numbers_computed_from_sizes_are_tracked_through_fractions():
    import math

    def forward(self, x):
        h = self.checked(x).shape[-2]
        side = math.ceil(h / 3) + (5 - h // 4) % 2
        return F.adaptive_avg_pool2d(self.stem(x), side), math.floor(h / 2), 2 * x.numel(), -h, 2**h, h**2, 100 - h, 64 // h

    graph = check(forward_of(forward), sides=(6, 12, 16))
    assert called(graph) == ["stem"]


def test_arguments_may_be_optional_and_given_by_name():
    def forward(self, pixels=None, mask=None, *, scale=1.0, deep=False):
        if pixels is None:
            raise ValueError("no pixels")
        x = self.conv(self.stem(self.checked(pixels)))
        x = x * mask if mask is not None else x
        return (x * scale, [x]) if deep else x

    model = forward_of(forward)
    check(model)
    check(model, images(), scale=2.0, deep=True)
    part = whole(model, pixels=images(), mask=torch.rand(4, 1, 8, 8), deep=True)
    x, mask = images(2, 8, 5), torch.rand(2, 1, 8, 8)
    assert is_same(outputs_of(model, part, mask=mask, pixels=x, deep=True), model(x, mask, deep=True))


def test_the_first_argument_is_the_input_where_all_have_defaults():
    def forward(self, pixels=None, labels=None):
        return self.head(self.conv(self.stem(pixels)).mean((2, 3)))

    model = forward_of(forward)
    for arguments in (None, ((images(),), {}), ((), {"pixels": images()})):
        found = {site.name: site.roles for site in find_sites(model, trace_layers(model, arguments))}
        assert found == {"stem": {"first"}, "conv": set(), "head": {"last"}}


@dataclasses.dataclass
class Output:
    logits: Tensor
    maps: list


class Named(OrderedDict):
    pass


def test_outputs_have_their_real_nesting():
    def forward(self, x):
        y = self.stem(self.checked(x))
        z = self.conv(y)
        output = Output(self.head(z.mean((2, 3))), [y, (z, {"n": len(x.shape)})])
        return {"out": output, "named": Named(a=y, b=z), "all": (y, None, "text")}

    model = forward_of(forward)
    part = whole(model, images())
    output, expected = outputs_of(model, part, images(3, 8, 2)), model(images(3, 8, 2))
    assert is_same(output, expected)
    assert output.keys() == expected.keys()
    assert isinstance(output["out"], Output)
    assert output["all"][1:] == (None, "text")
    assert output["named"].keys() == {"a", "b"}


def test_containers_that_are_walked_over():
    class Walks(Small):
        def __init__(self):
            super().__init__()
            self.more = nn.ModuleDict({"one": nn.Conv2d(8, 8, 1), "two": nn.Conv2d(8, 8, 3, padding=1)})
            self.stack = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))

        def forward(self, x):
            x, seen = self.stem(self.checked(x)), []
            for layer in self.more.values():
                x = layer(x)
                seen.append(x)
            x = self.stack[1:](self.stack[0](x))
            return self.conv(x) + sum(seen)

    assert called(check(Walks())) == ["stem", "more.one", "more.two", "stack.0", "stack.1", "stack.2", "conv"]


def test_branches_on_the_type_of_a_value():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x, skip=None):
            return self.conv(x + skip if isinstance(skip, Tensor) else x)

    class Net(Small):
        def __init__(self):
            super().__init__()
            self.up = Up()

        def forward(self, x):
            y = self.stem(x)
            return self.up(self.conv(y), y)

    graph = check(Net())  # torch.fx traces it without the sum
    assert any(node.op == "call_function" for node in graph.nodes)
    assert "up.conv" in called(graph)


def test_modules_and_layers_made_in_forward_are_functions():
    def forward(self, x):
        x = nn.ReLU()(self.norm(self.conv(self.stem(x))))
        return nn.Sequential(nn.AvgPool2d(2), self.extra)(nn.Upsample(scale_factor=2)(x))

    model = forward_of(forward)
    model.extra = nn.Conv2d(8, 8, 1)
    for part in (trace_layers(model)[0], whole(model, images())):
        assert part.whole
        assert called(part.graph) == ["stem", "conv", "norm", "extra"]
        assert is_same(outputs_of(model, part, images(2)), model(images(2)))
    model.plain_list = [nn.Conv2d(8, 8, 1)]
    model.extra = nn.Identity()
    assert trace_layers(model)


def test_layers_in_a_plain_list_are_constants():
    def forward(self, x):
        return self.conv(self.layers[0](self.stem(x)))

    model = forward_of(forward)
    model.layers = [nn.Conv2d(8, 8, 1)]
    assert called(check(model)) == ["stem", "conv"]


def test_changes_in_place_are_seen_by_all_who_read_the_tensor():
    def forward(self, x):
        y = self.conv(self.stem(self.checked(x)))
        lowest = y.amin(1, keepdim=True)
        y.mul_(2).clamp_(min=-0.1)
        y += 1
        y[:, 1:3] = y[:, 5:7] * 3
        kept = y.clone()
        y.view(-1)[::2].mul(3)
        F.relu(kept, inplace=True)
        return self.norm(y) - kept, lowest, torch.add(y, 1, out=torch.empty_like(y))

    check(forward_of(forward))


@pytest.mark.parametrize("change", ["of a part of the tensor", "of the tensor of a part"])
def test_values_that_share_memory_with_what_is_changed_are_not_recorded(change):
    def forward(self, x):
        y = self.conv(self.stem(self.checked(x)))
        half = y[:, :4]
        (half if change == "of a part of the tensor" else y).mul_(2)
        return self.norm(y), half

    model, x = forward_of(forward), images()
    parts = trace_layers(model, ((x,), {}))
    assert not any(part.whole for part in parts)
    assert {part.entry for part in parts} == {"stem", "conv", "head"}
    assert torch.equal(outputs_of(model, parts[0], x), model.stem(x))


def test_modules_that_work_in_place():
    class Net(Small):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.stem(self.checked(x))
            z = self.relu(y)
            return self.conv(z) + y

    graph = check(Net())
    total = next(node for node in graph.nodes if node.op == "call_function")
    assert [str(source.target) for source in total.all_input_nodes] == ["conv", "relu"]


def test_a_module_with_hooks_is_opaque_and_its_inside_is_a_part():
    class Net(Small):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid())
            self.block.register_forward_hook(lambda module, args, output: output * 2)
            self.block.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

        def forward(self, x):
            return self.head(self.conv(self.block(self.stem(x))).mean((2, 3)))

    model = Net().eval()
    for arguments in (None, ((images(),), {})):
        parts = trace_layers(model, arguments)
        assert [part.entry for part in parts] == ["", "block"]
        assert called(parts[0].graph) == ["stem", "block", "conv", "head"]
        assert called(parts[1].graph) == ["0", "1"]
        assert is_same(outputs_of(model, parts[0], images(2)), model(images(2)))


def test_hooks_on_the_network_itself_stand_around_its_graph():
    model = forward_of(lambda self, x: self.conv(self.stem(self.checked(x))).relu())
    model.register_forward_pre_hook(lambda module, args: (args[0].mean(1, keepdim=True).expand(-1, 3, -1, -1),))
    model.register_forward_hook(lambda module, args, output: output + 1)
    part = whole(model, images())
    assert called(part.graph) == ["stem", "conv"]
    assert is_same(outputs_of(model, part, images(2)), model.forward(images(2)))


def test_opaque_modules_hand_on_values_of_any_kind():
    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)
            self.register_forward_hook(lambda module, args, output: None)

        def forward(self, values, output, flag):
            y = self.conv(values["x"][0]) + output.logits
            return Output(y, [y, {"y": y}]), Named(z=y), y.shape[0]

    class Net(Small):
        def __init__(self):
            super().__init__()
            self.opaque = Opaque()

        def forward(self, x):
            y = self.stem(self.checked(x))
            output, named, _count = self.opaque({"x": [y]}, Output(y, [y]), flag=True)
            return self.conv(output.logits + output.maps[1]["y"] + named["z"]) * 2, output

    check(Net())


@pytest.mark.parametrize("patch", ["method", "closure", "lambda"])
def test_forward_methods_that_were_replaced(patch):
    model = Small()

    def forward(self, x):
        return self.conv(self.stem(x)).relu()

    if patch == "method":
        model.forward = types.MethodType(forward, model)
    elif patch == "closure":
        model.forward = lambda x: forward(model, x)
    else:
        model.stem.forward = lambda x, stem=model.stem: F.conv2d(x, stem.weight * 2, padding=1)
        model.forward = types.MethodType(forward, model)
    model.train()  # the closure holds a network in training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = trace_layers(model, ((images(),), {}))
    assert parts[0].whole
    assert called(parts[0].graph) == ["stem", "conv"]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_class_whose_forward_was_replaced_by_another_on_the_instance():
    model = forward_of(lambda self, x: self.conv(self.stem(x)))
    model.forward = types.MethodType(lambda self, x: self.conv(self.stem(x).relu()) * 2, model)
    check(model)  # torch.fx traces that of the class


def test_parameters_and_buffers_are_read_as_attributes():
    class Net(Small):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(8, 1, 1))
            self.register_buffer("shift", torch.rand(8, 1, 1))
            self.table = torch.rand(8, 1, 1)

        def forward(self, x):
            y = self.stem(self.checked(x)) * self.scale + self.shift - self.table
            return F.conv2d(y, self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdim=True))

    model = Net()
    graph = check(model)
    read = {node.target for node in graph.nodes if node.op == "get_attr"}
    assert {"scale", "shift", "conv.weight", "table"} == read


def test_contexts_without_gradients_and_detached_values():
    def forward(self, x):
        with torch.no_grad():
            y = self.stem(self.checked(x)).detach()
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            return self.conv(y).requires_grad_() + y.data

    check(forward_of(forward))


def test_values_that_are_drawn_are_drawn_again():
    model = forward_of(lambda self, x: self.stem(self.checked(x)) + 0 * torch.rand(x.shape[0], 1, 1, 1))
    check(model)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.conv(self.stem(x)) if x.mean() > 0.2 else self.stem(x),
        lambda self, x: self.conv(self.stem(self.checked(x))) / x.abs().max().item(),
        lambda self, x: self.conv(self.stem(x))[:, :, : int(x.abs().sum() * 0) + 4],
        lambda self, x: self.conv(self.stem(torch.from_numpy(self.checked(x).numpy()))),
        lambda self, x: self.conv(self.stem(torch.tensor(self.checked(x).tolist()))),
        lambda self, x: self.conv(self.stem(self.checked(x)[: len(x)])).sum() * float(len(x)),
    ],
    ids=["branch", "item", "int", "numpy", "list", "length"],
)
def test_what_values_decide_is_not_recorded(forward):
    model = forward_of(forward)
    parts = trace_layers(model, ((images(),), {}))
    assert not any(part.whole and not part.entry for part in parts)
    assert {site.name for site in find_sites(model, parts)} == {"stem", "conv", "head"}


def test_a_network_that_changes_its_buffers_is_not_recorded():
    class Counts(Small):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return self.stem(self.checked(x)) * self.calls

    model = Counts().eval()
    trace_layers(model, ((images(),), {}))
    assert model.calls == 0
