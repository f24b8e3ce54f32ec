"""What networks took on the runtimes that they were timed on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from ..common.report import ReportBase, TextTable
from ..errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..common.figures import Bars


@dataclass(frozen=True)
class Timing:
    """One network on one runtime at one batch size.

    Attributes:
        seconds, low, high: what one batch takes: median and quartiles over the repeats.
        flops: multiply-adds for one input.
        flops_ratio, latency_ratio: the first network's over this one's: how many times fewer, how many times faster.
        problem: why there are no seconds.
    """

    model: str
    runtime: str
    batch_size: int
    flops: int
    flops_ratio: float
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    latency_ratio: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class LatencyReport(ReportBase):
    """What :func:`ghostify.latency` measured.

    Attributes:
        timings: for each runtime, batch size and network.
        threads: how many threads each runtime had.
        machine: the processor, and versions of the runtimes.
    """

    width = 140
    indent = 1

    timings: tuple[Timing, ...]
    threads: int
    machine: str

    def plot(self, batch_size: int | None = None, ax: "Axes | None" = None) -> "Axes":
        """Bars of the latency of one batch, a group for each runtime and batch size, with lines from quartile to quartile.

        Args:
            batch_size: the only one to draw; None for all of them.
            ax: axes to draw into; a new figure otherwise.

        Raises:
            ArgumentError: no network was timed, or none at this batch size.
        """
        from ..common.figures import grouped_bars

        timed = [t for t in self.timings if t.seconds is not None and batch_size in (None, t.batch_size)]
        if not timed:
            at_size = "" if batch_size is None else f" at batch_size={batch_size!r}"
            raise ArgumentError(f"no network was timed{at_size}, so there is nothing to draw")
        groups = list(dict.fromkeys((t.runtime, t.batch_size) for t in timed))
        bars = []
        for model in dict.fromkeys(t.model for t in timed):
            timings = {(t.runtime, t.batch_size): t for t in timed if t.model == model}
            bars.append(_bars(model, [timings.get(group) for group in groups]))
        labels = [f"{runtime}\nbatch {size}" for runtime, size in groups]
        return grouped_bars(labels, bars, title="latency of one batch", ylabel="median", unit="s", ax=ax)

    def summary(self) -> str:
        """Threads and machine, and what the figures of the table are."""
        return f"{self.threads} threads, {self.machine}. Median of a batch (quartiles); FLOPs are multiply-adds for one input."

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [asdict(timing) for timing in self.timings]

    def _columns(self) -> Sequence[str]:
        return [field.name for field in fields(Timing)]

    def _table(self) -> TextTable:
        titles = ("runtime", "batch", "model", "latency", "times faster", "times fewer FLOPs")
        return TextTable(titles, [_cells(timing) for timing in self.timings], right=(3, 4, 5))


def _cells(timing: Timing) -> tuple[str, ...]:
    if timing.seconds is None or timing.low is None or timing.high is None:
        latency, faster = str(timing.problem), ""
    else:
        latency = f"{_milliseconds(timing.seconds)} ({_milliseconds(timing.low)} to {_milliseconds(timing.high)})"
        faster = f"{timing.latency_ratio:.2f}"
    return timing.runtime, str(timing.batch_size), timing.model, latency, faster, f"{timing.flops_ratio:.2f}"


def _bars(model: str, timings: "Sequence[Timing | None]") -> "Bars":
    """A bar for each timing, up to the median, and NaN where there is none."""
    from ..common.figures import Bars

    seconds = [((t.seconds, t.low, t.high) if t else (None, None, None)) for t in timings]
    heights, low, high = ([math.nan if value is None else value for value in values] for values in zip(*seconds, strict=True))
    return Bars(model, heights, low, high)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
