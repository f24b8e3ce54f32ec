"""The spans of a network, some channels of each, and the network in which readers have zeros for the others."""

import copy

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from ghostify.graph.spans import Span
from ghostify.layers.convolution import filters_of
from ghostify.surgery.narrowing import NarrowedSpan, narrowed_layers


def some(span: Span, share: float = 0.5, seed: int = 0) -> NarrowedSpan:
    """A random choice of channels, equally many of each group."""
    size = span.channels // span.groups
    count = max(1, round(share * size))
    generator = torch.Generator().manual_seed(seed)
    runs = [torch.randperm(size, generator=generator)[:count].sort().values + i * size for i in range(span.groups)]
    return NarrowedSpan(span, torch.cat(runs))


def narrowed(model: nn.Module, chosen: list[NarrowedSpan]) -> nn.Module:
    """A copy without the channels that go."""
    student = copy.deepcopy(model)
    for target, layer in narrowed_layers(dict(model.named_modules(remove_duplicate=False)), chosen).items():
        student.set_submodule(target, layer)
    return student


@torch.no_grad()
def with_zeros(model: nn.Module, chosen: list[NarrowedSpan]) -> nn.Module:
    """A copy at full width whose readers do not look at the channels that go."""
    model = copy.deepcopy(model)
    for one in chosen:
        gone = one.gone()
        for use in one.span.readers:
            layer = model.get_submodule(use.target)
            if getattr(layer, "groups", 1) == 1:
                filters_of(layer)[:, (use.offset + gone[:, None] * use.width + torch.arange(use.width)).flatten()] = 0
                continue
            inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
            for channel in gone.tolist():
                group = channel // inputs
                layer.weight[group * outputs : (group + 1) * outputs, channel % inputs] = 0
    return model


@torch.no_grad()
def differences(model: nn.Module, chosen: list[NarrowedSpan], inputs: tuple) -> dict[str, float]:
    """How far the narrowed network is from the one with zeros, at each call of each layer and at its outputs.

    Largest differences, relative to the largest value of the same maps; of layers that give fewer maps the ones that stay are
    compared. What is not finite or has another shape counts as infinitely far.
    """
    gone: dict[str, list[int]] = {}
    for one in chosen:
        for target, offset in [(m, 0) for m in one.span.makers] + [(use.target, use.offset) for use in one.span.carriers]:
            gone.setdefault(target, []).extend((offset + one.gone()).tolist())
    wanted, results = _maps(with_zeros(model, chosen), inputs), _maps(narrowed(model, chosen), inputs)
    assert wanted.keys() == results.keys()
    far: dict[str, float] = {}
    for name, maps in wanted.items():
        target = name.partition("#")[0]
        if target in gone:
            layer = model.get_submodule(target)
            dim = maps.dim() - 1 if isinstance(layer, nn.Linear) else maps.dim() - len(layer.kernel_size) - 1
            kept = [channel for channel in range(maps.shape[dim]) if channel not in set(gone[target])]
            maps = maps.index_select(dim, torch.tensor(kept))
        same = maps.shape == results[name].shape and bool(maps.isfinite().all())
        scale = float(maps.abs().max().clamp_min(1e-30)) if maps.numel() else 1.0
        far[name] = (
            float((maps - results[name]).abs().max()) / scale if same and maps.numel() else 0.0 if same else float("inf")
        )
    return far


def _maps(model: nn.Module, inputs: tuple) -> dict[str, torch.Tensor]:
    """What each call of each layer gives, by the name of the layer and the number of the call, and the network's outputs."""
    maps: dict[str, torch.Tensor] = {}

    def note(name):
        def hook(module, arguments, output):
            maps[f"{name}#{sum(key.partition('#')[0] == name for key in maps)}"] = output.clone()

        return hook

    layers = ((n, m) for n, m in model.named_modules() if isinstance(m, (nn.modules.conv._ConvNd, nn.Linear)))
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]
    outputs = [t for t in tree_leaves(model(*inputs)) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    for hook in hooks:
        hook.remove()
    return maps | {f"output {i}": output for i, output in enumerate(outputs)}


@torch.no_grad()
def shake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give values of their own to parameters and statistics that start all alike, so that no layer hides what another does."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.min() != tensor.max():
            continue
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        if tensor.dim() > 1 and tensor.shape[0] > 1:  # a weight, or a bias of attention
            tensor.copy_((values - 0.5) * 0.1)
        elif name.endswith(("bias", "running_mean", "beta")):
            tensor.copy_(values - 0.5)
        else:
            tensor.copy_(values + 0.5)
    return model
