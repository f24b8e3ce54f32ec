"""Time networks in turns, and say on what machine."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from .formats import Run

Load = Callable[[], Run]


TURN = 0.1  # seconds at least that a network runs before the next has its turn; the first call of a turn is not counted


LOADS = 5  # of each network: where in memory its weights and maps come to lie is worth up to a twentieth of its time


def in_turns(loads: Mapping[str, Load], x: Tensor, repeats: int, turn: float = TURN) -> dict[str, list[float]]:
    """Seconds of one call, for each repeat, of networks that take turns and are loaded anew now and then."""
    found: dict[str, list[float]] = {name: [] for name in loads}
    runs: dict[str, Run] = {}
    for i in range(repeats):
        if i * LOADS // repeats != (i - 1) * LOADS // repeats:
            runs.clear()  # before the next are loaded: there may be room for one of each
            runs.update({name: load() for name, load in loads.items()})
            for run in runs.values():
                run(x)
        for name, run in runs.items():
            run(x)
            calls = max(2, round(turn / max(_seconds(run, x, 1), 1e-7)))
            found[name].append(_seconds(run, x, calls))
    return found


def _seconds(run: Run, x: Tensor, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run(x)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """That torch uses meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> str:
    """Processor with the widest vector instructions that torch uses on it, GPU and version of torch."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}){gpu}, torch {torch.__version__}"


def _processor() -> str:
    told = Path("/proc/cpuinfo")  # on Linux; what Python tells there is no more than the architecture
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
