"""The random states of torch, NumPy and Python, held and put back together."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class RandomStream:
    """Random states of its own: what runs inside :meth:`active` neither sees nor disturbs those outside."""

    def __init__(self, seed: int):
        outside = _states()
        seed_all(seed)
        self.states = _states()
        _restore(outside)

    @contextmanager
    def active(self) -> Iterator[None]:
        outside = _states()
        _restore(self.states)
        try:
            yield
        finally:
            self.states = _states()
            _restore(outside)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever runs inside leaves the random states, those of GPUs included, as they were."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    outside = _states()
    try:
        yield
    finally:
        _restore(outside)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def as_usual(device: torch.device) -> Iterator[None]:
    """Inference mode and autocast of the caller's are off, so that what is made can be trained; the random state stays."""
    cuda = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False), torch.random.fork_rng(devices=cuda):
        yield


def _states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
