"""The command that shows all of it on handwritten digits."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import GhostifyError
from .options import Json, Ratio

if TYPE_CHECKING:
    from rich.table import Table

    from ..demo import DemoResult


def demo(ratio: Ratio = None, as_json: Json = False) -> None:
    """Train a small CNN on handwritten digits, convert it, win accuracy back without labels, and compare. Needs no network.

    Exit code 0 only if the student is smaller and works.
    """
    from rich.console import Console
    from rich.progress import Progress

    from ..demo import EPOCHS, run_demo

    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training a small CNN on scikit-learn's digits", total=EPOCHS)
        result = run_demo(2 if ratio is None else ratio, lambda: bar.advance(task))
    if as_json:
        print(json.dumps([asdict(line) for line in result.lines]))
    else:
        console.print(_table(result))
    if not result.works:
        raise GhostifyError("the student is not smaller, or more than five points behind the original")


def _table(result: "DemoResult") -> "Table":
    from rich.table import Table

    from ..demo import IMAGES, STEPS

    table = Table(
        title="scikit-learn's digits, accuracy on 500 that were held out",
        caption=f"without a label: calibrated on {IMAGES} images, recovered in {STEPS} steps; time for both; "
        "latency of 256 images",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("model", no_wrap=True)
    for title in ("accuracy", "calibrated", "recovered", "time", "params", "FLOPs", "latency"):
        table.add_column(title, justify="right", no_wrap=True)
    for line in result.lines:
        seconds = "" if line.seconds is None else f"{line.seconds:.0f} s"
        shares = [_share(value) for value in (line.accuracy, line.calibrated, line.recovered)]
        costs = [f"{line.params / 1e3:.0f} K", f"{line.flops / 1e6:.2f} M", f"{line.latency * 1e3:.1f} ms"]
        table.add_row(line.name, *shares, seconds, *costs)
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
