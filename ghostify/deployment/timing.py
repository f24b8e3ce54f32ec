"""The clock: one call timed by itself, networks timed in turns, and the name of the machine."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .formats import Run

Load = Callable[[], Run]
"""Loads a network into its runtime, at each call anew."""


REPEATS = 7  # of a call that is timed by itself


LEAST_SECONDS = 0.02  # that one repeat takes, so that the clock's grain and a hiccup count little


TURN = 0.1  # seconds at least that a network runs before the next has its turn; the first call of a turn is not counted


LOADS = 5  # of each network: where in memory its weights and maps come to lie is worth up to a twentieth of its time


def in_turns(loads: Mapping[str, Load], x: Tensor, repeats: int, turn: float = TURN) -> dict[str, list[float]]:
    """Seconds of one call of each network, for each repeat. Networks take turns, and are loaded anew now and then.

    Args:
        loads: functions that load the networks, by the networks' names.
        x: the input of all of them.
        repeats: turns of each network.
        turn: seconds that a turn takes at least, or two calls.
    """
    seconds: dict[str, list[float]] = {name: [] for name in loads}
    runs: dict[str, Run] = {}
    for i in range(repeats):
        if i * LOADS // repeats != (i - 1) * LOADS // repeats:
            runs.clear()  # before the next are loaded: there may be room for one of each
            runs.update({name: load() for name, load in loads.items()})
            for run in runs.values():
                run(x)
        for name, run in runs.items():
            run(x)
            seconds[name].append(_seconds_of_one(run, x, calls=max(2, _calls_in(turn, run, x))))
    return seconds


@torch.no_grad()
def seconds_of(run: Callable[[], object]) -> float:
    """Median time of one call, each repeat long enough to be timed."""
    _seconds_of_one(run, calls=1)
    calls = max(1, _calls_in(LEAST_SECONDS, run))
    return statistics.median(_seconds_of_one(run, calls=calls) for _ in range(REPEATS))


def _calls_in(seconds: float, run: Callable[..., object], *args: Tensor) -> int:
    """How often a function can be called in so many seconds, by the time that one call takes."""
    return round(seconds / max(_seconds_of_one(run, *args, calls=1), 1e-7))


def _seconds_of_one(run: Callable[..., object], *args: Tensor, calls: int) -> float:
    """Seconds of one call, as the mean of so many in a row; what a GPU still has to do is waited for."""
    start = time.perf_counter()
    for _ in range(calls):
        run(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """Set the number of threads that torch uses while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> str:
    """The processor with the widest vector instructions that torch uses on it, the GPU and the version of torch."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}){gpu}, torch {torch.__version__}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")  # on Linux; what Python tells there is no more than the architecture
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
