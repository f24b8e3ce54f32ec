"""Where a rehearsal runs: a copy of the network, or the network itself, with other layers in the places of some of its own."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..common.calls import Arguments, evaluation_mode, forward_hooks
from ..common.copying import copy_to_run, standing_in
from ..common.hooks import all_hooks, hooks_with_modules, keep_hooks
from ..common.random_state import seed_what_runs, without_caller_modes
from ..graph.sites import is_listed
from ..inputs.examples import quiet
from .closures import attributes_kept, intruders

EXACT = 1e-4  # of the largest value: sums of fewer columns are taken in another order

ROUGH = 2e-2  # the same for short floating-point types, and on GPUs, which may compute in shorter ones


@dataclass(frozen=True)
class Performance:
    """What a forward pass gave.

    Attributes:
        outputs: the tensors of the network's output.
        layers: by the qualified name of each convolution and fully connected layer, for each of its calls the mean and the
            root mean square of its output.
        intruders: names of layers, parameters and buffers of the original that its copy used.
    """

    outputs: list[Tensor]
    layers: dict[str, list[tuple[float, float]]]
    intruders: list[str]

    @property
    def is_finite(self) -> bool:
        """Whether all numbers among the outputs are."""
        return all(bool(tensor.isfinite().all()) for tensor in self.outputs if tensor.is_floating_point())

    def equals(self, other: "Performance", apart: set[str]) -> bool:
        """Whether both gave the same, up to rounding.

        Args:
            other: of the network as it is.
            apart: names of the layers whose outputs may differ.
        """
        if len(self.outputs) != len(other.outputs):
            return False
        same = all(_equal(a, b) for a, b in zip(self.outputs, other.outputs, strict=True))
        names = other.layers.keys() - apart
        tolerance = _tolerance(self.outputs[0]) if self.outputs else EXACT
        return same and all(_alike(self.layers.get(name, []), other.layers.get(name, []), tolerance) for name in names)


class Stage:
    """A network on which layers can be tried: a copy, or the network itself where that is what will be changed.

    Parameters with a value for each channel can be random while it runs: a norm whose scale is zero, or a tiny layer scale, as
    networks have them before training, would hide what happens before it.

    Args:
        original: the network, which is as it was afterwards.
        inplace: whether to run the network itself.
        hooks: whether all hooks run; otherwise those alone that hold a module, since others may do anything outside.

    Attributes:
        network: what runs.
        varied: whether parameters are random in :meth:`random_scales`.
    """

    def __init__(self, original: nn.Module, inplace: bool, hooks: bool = False):
        small = [p for p in original.parameters() if p.is_floating_point() and p.numel() == max(p.shape, default=1) > 1]
        self.original = original
        self.network = original if inplace else copy_to_run(original, own=small, aliases=True).eval()
        self.inplace = inplace
        self._hooks = all_hooks(original) if hooks else hooks_with_modules(original)
        if not inplace:
            keep_hooks(self.network, self._hooks)
        ids = set(map(id, small))
        before = [(name, p) for name, p in original.named_parameters() if id(p) in ids]
        ours = dict(self.network.named_parameters())
        self._values = [(ours[name], p.detach().clone(), _scales(name, p)) for name, p in before]
        self._listed = {module: name for name, module in self.network.named_modules() if is_listed(module)}
        self.varied = True
        self._written: list[tuple[nn.Module, str, object]] = []  # what the last run changed in the original

    def run(self, arguments: Arguments, swaps: Mapping[str, nn.Module], is_first: bool = False) -> Performance:
        """One forward pass in evaluation mode.

        Args:
            arguments: of the network; they are not changed.
            swaps: by qualified name, what stands there meanwhile.
            is_first: whether it is noted what of the original is used.

        Raises:
            Exception: whatever the network raises.
        """
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        args, kwargs = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, arguments)
        layers: dict[str, list[tuple[float, float]]] = {}
        used: list[str] = []
        with ExitStack() as stack:
            for context in (without_caller_modes(device), quiet(), self._kept()):
                stack.enter_context(context)
            if self.inplace:
                keep_hooks(self.network, self._hooks)
            else:  # those that the network registers while it runs
                stack.callback(keep_hooks, self.network, self._hooks)
            stack.enter_context(standing_in({self.network.get_submodule(name): layer for name, layer in swaps.items()}))
            stack.enter_context(evaluation_mode(self.network))
            if not self.inplace:
                stack.enter_context(evaluation_mode(self.original))  # a closure may hold it
                self._written = stack.enter_context(attributes_kept(self.original))
                if is_first:
                    stack.enter_context(intruders(self.original, self.network, used))
            names = self._listed | {self.network.get_submodule(name): name for name in swaps}
            stack.enter_context(_summaries(names, layers))
            if any(type(module)._apply is not nn.Module._apply for module in self.network.modules()):
                self.network._apply(lambda tensor: tensor)  # its own code, which moves it, has to do with what stands there
            seed_what_runs(0)
            output = self.network(*args, **kwargs)
            outputs = [tensor.detach().clone() for tensor in _tensors(output)]
        return Performance(outputs, layers, used)

    def misses(self, arguments: Arguments, plain: Performance | None) -> str | None:
        """Which attribute of the original the last run wrote, and would have had to read: the copy does something else with it.

        Args:
            arguments: of that run.
            plain: what it gave; None where it failed.
        """
        written = self._written
        if not written or (plain is not None and not self.run(arguments, {}).equals(plain, set())):
            return None
        name_of = {module: name for name, module in self.original.named_modules()}
        with attributes_kept(self.network):
            for module, name, value in written:
                vars(self.network.get_submodule(name_of[module]))[name] = value
            try:
                given = self.run(arguments, {})
            except Exception:  # code of any kind runs here
                return None
        if plain is not None and given.equals(plain, set()):
            return None
        module, name, _ = written[0]
        return f"{name_of[module]}.{name}".removeprefix(".")

    @contextmanager
    def random_scales(self) -> Iterator[None]:
        """Parameters with a value for each channel are random while the block runs, unless ``varied`` is False."""
        try:
            for parameter, _, random in self._values if self.varied else ():
                parameter.data.copy_(random)
            yield
        finally:
            for parameter, own, _ in self._values:
                parameter.data.copy_(own)

    @contextmanager
    def in_double(self) -> Iterator[bool]:
        """Parameters and buffers have double precision while the block runs; False is given where the device has none."""
        tensors = {id(t): t for t in [*self.network.parameters(), *self.network.buffers()] if t.is_floating_point()}.values()
        before = [(tensor, tensor.data) for tensor in tensors]
        try:
            try:
                for tensor, values in before:
                    tensor.data = values.double()
            except (RuntimeError, TypeError):
                yield False
            else:
                yield True
        finally:
            for tensor, values in before:
                tensor.data = values

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Attributes, hooks and buffers of the network itself are afterwards what they were."""
        modules = list(self.network.modules()) if self.inplace else []
        states = [(module, _shallow(vars(module))) for module in modules]
        buffers = [(b, b.detach().clone()) for module in modules for b in module._buffers.values() if b is not None]
        try:
            yield
        finally:
            for module, state in states:
                vars(module).clear()
                vars(module).update(state)
            for buffer, values in buffers:
                buffer.data.copy_(values)


def _shallow(state: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if type(value) is dict and name.startswith("_") else value for name, value in state.items()}


def _scales(name: str, parameter: Tensor) -> Tensor:
    """Random values of both signs, so that activations have something to do; biases are small beside what they are added to."""
    values = torch.rand(parameter.shape, generator=torch.Generator("cpu").manual_seed(parameter.numel()), device="cpu") - 0.5
    return (values if name.endswith("bias") else values + values.sign()).to(parameter)


@contextmanager
def _summaries(name_of: Mapping[nn.Module, str], layers: dict[str, list[tuple[float, float]]]) -> Iterator[None]:
    """Note what each layer gives while the block runs, layers that stand in included."""

    def note(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.numel():
            values = output.float() if output.is_floating_point() else output.abs().float()
            summary = (float(values.mean()), float(torch.linalg.vector_norm(values)) / math.sqrt(values.numel()))
            layers.setdefault(name_of[module], []).append(summary)

    with forward_hooks(after=[(module, note) for module in name_of]):
        yield


def _tensors(output: object) -> list[Tensor]:
    """All tensors in what a network returns, whatever holds them."""
    found: list[Tensor] = []
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            found += _tensors([getattr(leaf, field.name) for field in fields(leaf)])
        elif isinstance(leaf, Mapping):
            found += _tensors(list(leaf.values()))
    return found


def _tolerance(tensor: Tensor) -> float:
    return EXACT if tensor.dtype in (torch.float32, torch.float64) and tensor.device.type == "cpu" else ROUGH


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return bool((a == b).all())
    largest = float(a.abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=_tolerance(a) * largest, equal_nan=True)


def _alike(a: list[tuple[float, float]], b: list[tuple[float, float]], tolerance: float) -> bool:
    if len(a) != len(b):
        return False
    pairs = [(x, y, one[1]) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)]
    return all(x == y or abs(x - y) <= tolerance * size or not math.isfinite(x + y) for x, y, size in pairs)
