"""Figures of results: bars, curves, heat map, Pareto front."""

from typing import TYPE_CHECKING

from ..distillation.report import SCORES
from ..errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..calibration.report import CalibrationReport
    from ..conversion.report import Report
    from ..conversion.sensitivity_table import Sensitivity
    from ..distillation.report import RecoveryReport
    from ..exploration.sweep_result import SweepResult

DENSE, GHOST = "#9aa5b1", "#2563a8"


def plot_report(report: "Report", metric: str = "flops", ax: "Axes | None" = None) -> "Axes":
    """Bars for each site in execution order: the original behind, the student before it; dense sites have one colour.

    Args:
        report: of :func:`ghostify.report`.
        metric: ``"flops"`` or ``"params"``.
        ax: axes to draw into; a new figure otherwise.

    Raises:
        ArgumentError: another metric, or FLOPs of a report that has none.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator

    if metric not in ("flops", "params"):
        raise ArgumentError(f"metric must be 'flops' or 'params', not {metric!r}")
    before = [getattr(row, f"{metric}_before") for row in report.rows]
    after = [getattr(row, f"{metric}_after") for row in report.rows]
    if None in before:
        raise ArgumentError("this report has no FLOPs: give ghostify.report an example_input, or plot metric='params'")
    if ax is None:
        _, ax = plt.subplots(figsize=(max(6.4, min(16, 0.16 * len(before) + 2)), 3.8), layout="constrained")
    x = range(len(before))
    ax.bar(x, before, width=0.85, color=DENSE, label="original")
    converted = [row.reason is None for row in report.rows]
    ax.bar(x, [a if c else 0 for a, c in zip(after, converted, strict=True)], width=0.85, color=GHOST, label="student")
    ax.yaxis.set_major_formatter(EngFormatter())
    ax.set(
        xlabel="site, in execution order",
        ylabel="FLOPs (multiply-adds)" if metric == "flops" else "params",
    )
    ax.set_title(f"{report.model}: {len(report.converted)} of {len(report.rows)} sites converted", loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return ax


def plot_calibration(report: "CalibrationReport", ax: "Axes | None" = None) -> "Axes":
    """The relative error of each fitted site before and after, in execution order.

    Args:
        report: of :func:`ghostify.calibrate`.
        ax: axes to draw into; a new figure otherwise.
    """
    import matplotlib.pyplot as plt

    sites = report.fitted
    if ax is None:
        _, ax = plt.subplots(figsize=(max(6.4, min(16, 0.16 * len(sites) + 2)), 3.8), layout="constrained")
    x = range(len(sites))
    ax.plot(x, [site.before or 0.0 for site in sites], "o", color=DENSE, label="warm start")
    ax.plot(x, [site.after or 0.0 for site in sites], "o", color=GHOST, label="least squares")
    ax.set(xlabel="site, in execution order", ylabel="relative error", ylim=(0, None))
    ax.set_title(f"{report.model}: {len(sites)} sites, {report.images} images", loc="left")
    ax.margins(x=0.01)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return ax


def plot_recovery(report: "RecoveryReport", ax: "Axes | None" = None) -> "Axes":
    """The mean loss of each epoch against steps, and on an axis of its own the validation where there is one.

    Args:
        report: of :func:`ghostify.distill`.
        ax: axes to draw into; a new figure otherwise.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    losses = [(row.step, row.loss) for row in report.epochs if row.loss is not None]
    scores = [(row.step, row.score) for row in report.epochs if row.score is not None]
    ax.set(xlabel="step", ylabel="loss")
    ax.set_title(f"{report.model}: {report.steps} steps", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    lines = ax.plot(*zip(*losses, strict=True), color=DENSE, marker="o", ms=3, label="loss")
    if scores:
        other = ax.twinx()
        first = next(iter(next(row for row in report.epochs if row.scores).scores))
        name = SCORES.get(first, first)
        lines += other.plot(*zip(*scores, strict=True), color=GHOST, marker="o", ms=3, label=f"{name}, validation")
        other.set_ylabel(name)
        other.yaxis.set_major_formatter(PercentFormatter(1))
        other.spines[["top"]].set_visible(False)
    ax.legend(handles=lines, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return ax


def plot_sensitivity(found: "Sensitivity", metric: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """A heat map: sites in execution order from left to right, ratios from bottom to top; dark is dear.

    Args:
        found: of :func:`ghostify.sensitivity`.
        metric: ``"kl"``, on a logarithmic scale; ``"error"``; or ``"top1"``. None: ``"kl"`` where there is one.
        ax: axes to draw into; a new figure otherwise.

    Raises:
        ArgumentError: another metric, or one that was not measured.
    """
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import LogNorm

    metric = metric or found.metric()
    if metric not in METRICS:
        raise ArgumentError(f"metric must be {', '.join(map(repr, METRICS))}, not {metric!r}")
    sites, ratios = found.sites, found.header.ratios
    cells = np.full((len(ratios), len(sites)), np.nan)
    for row in found.rows:
        value = getattr(row, metric)
        cells[ratios.index(row.ratio), sites.index(row.name)] = np.nan if value is None else value
    if np.isnan(cells).all():
        raise ArgumentError(f"metric={metric!r} was not measured")
    if ax is None:
        _, ax = plt.subplots(figsize=(max(6.4, min(18, 0.2 * len(sites) + 2)), 2.4 + 0.3 * len(ratios)), layout="constrained")
    norm = None
    if metric == "kl":
        top = np.nanmax(cells)
        norm = LogNorm(max(np.nanmin(cells), top * 1e-4, 1e-12), max(top, 1e-11))
        cells = np.clip(cells, norm.vmin, None)
    image = ax.imshow(cells, aspect="auto", origin="lower", cmap="Blues_r" if metric == "top1" else "Blues", norm=norm)
    ax.figure.colorbar(image, ax=ax, label=METRICS[metric], pad=0.01)
    step = max(1, len(sites) // 60)
    ax.set_xticks(range(0, len(sites), step), sites[::step], rotation=90, fontsize=7)
    ax.set_yticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    ax.set(xlabel="site", ylabel="ratio")
    ax.set_title(f"{found.header.model}: {METRICS[metric]}, one site at a time", loc="left")
    return ax


METRICS = {"kl": "divergence, nats", "error": "relative error of the site", "top1": "top-1"}


def plot_sweep(found: "SweepResult", cost: str = "flops", by: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Accuracy against cost: a point for each trial, a line through the Pareto front, a star for the original.

    Args:
        found: of :func:`ghostify.sweep`.
        cost: ``"flops"``, ``"params"`` or ``"latency"``.
        by: the setting that colours tell; None for the model where there are several.
        ax: axes to draw into; a new figure otherwise.

    Raises:
        ArgumentError: another cost, a setting that no trial has, or nothing to draw.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, PercentFormatter

    front = found.pareto(cost)
    frame = found.to_frame().dropna(subset=[cost, found.metric])
    if not len(frame):
        raise ArgumentError("no trial has succeeded, so there is nothing to draw")
    by = by or ("model" if frame["model"].nunique() > 1 else None)
    if by is not None and by not in frame:
        raise ArgumentError(f"by={by!r} is no setting of these trials")
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    original = frame["params_share"].eq(1)
    students = frame[~original]
    groups = [(None, students)] if by is None else list(students.fillna({by: "none"}).groupby(by, sort=False))
    for number, (value, group) in enumerate(groups):
        colour = GHOST if by is None else f"C{number % 10}"
        label = "trials" if by is None else " ".join(map(str, (by, value)))
        ax.plot(group[cost], group[found.metric], "o", ms=5, alpha=0.8, color=colour, label=label)
    ax.plot(front[cost], front[found.metric], "-", color=GHOST, lw=1, zorder=1, label="Pareto front", drawstyle="steps-post")
    ax.plot(frame[original][cost], frame[original][found.metric], "*", ms=12, color=DENSE, mec="#333333", label="original")
    ax.xaxis.set_major_formatter(EngFormatter(unit="s" if cost == "latency" else ""))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    names = {"flops": "FLOPs (multiply-adds)", "params": "params", "latency": "latency of one input"}
    ax.set(xlabel=names[cost], ylabel="top-1" if found.metric == "top1" else "agreement with the original")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return ax
