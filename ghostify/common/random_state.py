"""The random states of torch, NumPy and Python, held and put back together."""

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_what_runs(seed: int) -> None:
    """Seed NumPy, Python, the CPU and, where they are in use, GPUs: torch notes the seeds of others until they are, which takes
    longer than a small network runs, and can't be undone."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class RandomStream:
    """A stream of random numbers apart from the program's: what runs inside :meth:`active` neither sees nor disturbs the
    random states outside."""

    def __init__(self, seed: int):
        outside = _RandomStates.read()
        seed_all(seed)
        self._states = _RandomStates.read()
        outside.restore()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Random numbers come from this stream while the block runs; the next block goes on where this one ends."""
        outside = _RandomStates.read()
        self._states.restore()
        try:
            yield
        finally:
            self._states = _RandomStates.read()
            outside.restore()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever runs inside leaves the random states, those of GPUs included, as they were."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    outside = _RandomStates.read()
    try:
        yield
    finally:
        outside.restore()
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Whatever runs inside draws from this seed, and leaves the random states as they were."""
    with undisturbed():
        seed_what_runs(seed)
        yield


@contextmanager
def without_caller_modes(device: torch.device) -> Iterator[None]:
    """Inference mode and autocast of the caller are off, so that modules that are built inside can be trained; torch's random
    states, of the CPU and of ``device``, stay as they were."""
    cuda = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False), torch.random.fork_rng(devices=cuda):
        yield


def cpu_by_default() -> AbstractContextManager[object]:
    """New tensors lie on the CPU, whatever the caller's default device; as context that is nothing where it is the CPU already,
    since torch's own looks at every call."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


@dataclass(frozen=True)
class _RandomStates:
    """The random states of the CPU at one time."""

    torch_state: Tensor
    numpy_state: dict[str, object] | tuple[str, np.ndarray, int, int, float]
    python_state: tuple[object, ...]

    @classmethod
    def read(cls) -> "_RandomStates":
        return cls(torch.get_rng_state(), np.random.get_state(), random.getstate())

    def restore(self) -> None:
        torch.set_rng_state(self.torch_state)
        np.random.set_state(self.numpy_state)
        random.setstate(self.python_state)
