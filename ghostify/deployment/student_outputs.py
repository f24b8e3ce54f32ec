"""What a student and the modules in it give on known inputs, to compare folded forms with."""

import logging
from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from ..common.buffers import BuffersBefore, kept_buffers
from ..common.calls import Arguments, evaluation_mode, in_double
from ..common.copying import copy_to_run
from ..common.random_state import seeded
from ..common.text import first_line
from ..graph.probes import SEED, Probes, arguments_like, copied, is_same, tensors_in
from ..graph.tracing import lies_in
from ..graph.usage import has_hooks
from .inference_copy import inference_copy

log = logging.getLogger(__name__)

DIFFERS = "the network gives other outputs when it is folded"

ROUNDINGS = 4  # times what a module itself loses to rounding may be lost: some make much of little


class StudentOutputs:
    """The outputs of a student in evaluation mode, with its hooks and its own code, on inputs of two batch sizes.

    Args:
        student: it is not changed; a copy runs that shares its parameters.
        arguments: that it takes.

    Attributes:
        names: qualified names of modules that will be asked for, whose calls are then noted in the same pass.
    """

    def __init__(self, student: nn.Module, arguments: Arguments):
        self.student, self.arguments = student, arguments
        self.names: list[str] = []
        self.network = copy_to_run(student).eval()
        self.probes = Probes(self.network, [arguments])
        self._before = BuffersBefore.of(self.network)
        self._losses: dict[int, tuple[Arguments, float]] = {}  # by calls, which are held so that no other gets their id

    @property
    def shapes(self) -> str:
        """The shapes of the first input, in words."""
        return ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors_in(self.arguments))

    def runs(self, name: str) -> bool:
        """Whether the module of this qualified name is called at all."""
        with evaluation_mode(self.student):  # a hook may hold the student, and run it
            return bool(self.probes.calls(0, name, self.names))

    def writes(self, name: str) -> bool:
        """Whether a call of the module of this qualified name changes tensors that it or what lies in it keeps."""
        return self.runs(name) and any(lies_in(key, name) for key in self._written)

    @cached_property
    def _written(self) -> list[str]:
        return self._before.changed()  # by the first probe

    def difference(self, name: str, form: nn.Module) -> str | None:
        """How a form of a module differs from the module itself, its own hooks aside; None where it does not."""
        module = self.network.get_submodule(name)
        with evaluation_mode(self.student), kept_buffers(form):
            for which in range(self.probes.count):
                for call in self.probes.calls(which, name, self.names):
                    try:
                        given = _called(form.forward, call.arguments)
                    except Exception as error:  # of any kind, from the network's own code
                        return _failure(error)
                    if not is_same(given, call.output) and not self._is_rounding(module, call.arguments, call.output, given):
                        return DIFFERS
        return None

    def whole_difference(self, form: nn.Module) -> str | None:
        """How a form of the whole student differs from it, hooks and all; None where it does not."""
        arguments = arguments_like(self.arguments, None, SEED) or self.arguments
        with evaluation_mode(self.student), kept_buffers(form):
            expected = self._whole_output(arguments)
            try:
                given = _called(form, arguments)
            except Exception as error:  # of any kind, from the network's own code
                return _failure(error)
            if is_same(given, expected) or self._is_rounding(self.network, arguments, expected, given):
                return None
        return DIFFERS

    def _whole_output(self, arguments: Arguments) -> object:
        """What the student gives, hooks and all: what it gave already, where these are the arguments of the first probe."""
        calls = [] if has_hooks(self.network) else self.probes.calls(0, "", self.names)
        return calls[0].output if calls and _same_tensors(calls[0].arguments, arguments) else _called(self.network, arguments)

    def _is_rounding(self, module: nn.Module, call: Arguments, expected: object, given: object) -> bool:
        """Whether outputs differ by no more than a few times what the module loses to the precision that it computes in."""
        if [t.shape for t in tensors_in(expected)] != [t.shape for t in tensors_in(given)]:
            return False
        if id(call) not in self._losses:
            self._losses[id(call)] = call, _lost(module, call, expected)
        lost = self._losses[id(call)][1]
        return lost > 0 and _largest_difference(expected, given) <= ROUNDINGS * lost


def _called(function: Callable[..., object], arguments: Arguments) -> object:
    args, kwargs = copied(arguments)
    with seeded(SEED), torch.no_grad():
        return function(*args, **kwargs)


def _same_tensors(one: Arguments, other: Arguments) -> bool:
    tensors, others = tensors_in(one), tensors_in(other)
    return len(tensors) == len(others) and all(map(torch.equal, tensors, others))


def _failure(error: Exception) -> str:
    """Why a folded form does not run, in words."""
    return f"it fails when it is folded: {first_line(error)}"


def _lost(module: nn.Module, call: Arguments, output: object) -> float:
    """What a module loses to the precision that it computes in, as a share of its output; 0 where that can't be told."""
    try:
        exact = _called(inference_copy(module).double().forward, in_double(call))
        return _largest_difference(exact, output)
    except Exception as error:  # a network's own code, which may know one type alone
        log.debug("%s does not run in float64: %s", type(module).__name__, error)
        return 0.0


def _largest_difference(one: object, other: object) -> float:
    """The largest difference of two outputs, as a share of the largest number of each tensor; NaN where it is unknown."""
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    shares = [float((a.double() - b.double()).abs().max() / a.double().abs().max().clamp_min(1e-12)) for a, b in pairs]
    return max(shares, default=0.0)
