"""The machine that measures: versions, device, memory of a process, and processes of their own."""

import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

import ghostify
from benchmarks.harness.results import ROOT

T = TypeVar("T")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "ghostify": ghostify.__version__, "python": platform.python_version()}


def versions_line() -> str:
    return f"ghostify {ghostify.__version__}, torch {torch.__version__}, python {platform.python_version()}"


def seconds_of(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and how long it took; on a GPU until all its work is done."""
    start = time.perf_counter()
    result = call()
    synchronize()
    return result, time.perf_counter() - start


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def peak_mib() -> float:
    """Memory of this process at its peak until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib(kind: str) -> float:
    """Memory of this process now (``VmRSS``) or at its peak since `forget_peak` (``VmHWM``), on Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """The peak of memory is counted from here, on Linux."""
    Path("/proc/self/clear_refs").write_text("5")


def run_module(name: str, *arguments: str) -> str:
    """What a module of the benchmarks prints, run in a process of its own with these arguments."""
    process = subprocess.run([sys.executable, "-m", name, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return process.stdout
