"""A page with an interactive plot and the table of a sweep, in one file that needs nothing from the network."""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..common.figures import DENSE, GHOST
from ..conversion.target import amount
from .trial import Trial, TrialResult

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.3rem; }}
h2 {{ font-size: 1.1rem; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }}
.sentence td, .sentence th {{ text-align: left; white-space: normal; }}
tr.original td {{ font-weight: 600; background: #f6f6f6; }}
.scroll {{ overflow-x: auto; }}
pre {{ white-space: pre-wrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
<pre>{summary}</pre>
{plot}
<div class="scroll">{table}</div>
{failed}
</body>
</html>
"""


@dataclass(frozen=True)
class Axis:
    """A figure of trials that the plot can have on an axis.

    Attributes:
        name: attribute of a :class:`TrialResult`.
        title: of the axis.
        factor: by which values are multiplied, for the unit of the axis.
        ticks: plotly's format of ticks.
        suffix: behind each tick.
    """

    name: str
    title: str
    factor: float = 1
    ticks: str = "~s"
    suffix: str = ""

    def values(self, trials: Sequence[TrialResult]) -> list[float]:
        return [getattr(trial, self.name) * self.factor for trial in trials]


COSTS = (
    Axis("flops", "FLOPs (multiply-adds)"),
    Axis("params", "parameters"),
    Axis("latency_share", "latency, share of the original's", ticks=".0%"),
    Axis("latency", "latency of one input", 1e3, "~g", " ms"),
)

SCORES = (Axis("top1", "top-1", ticks=".1%"), Axis("agreement", "agreement with the original", ticks=".1%"))


def sweep_page(results: Sequence[TrialResult], metric: str, summary: str) -> str:
    """The HTML of a whole page.

    Args:
        results: of all trials, failed ones among them.
        metric: what trials are judged by, ``"top1"`` or ``"agreement"``.
        summary: the totals in a few lines of plain text.
    """
    models = dict.fromkeys(str(result.settings["model"]) for result in results)
    title = f"ghostify sweep: {', '.join(models)}" if models else "ghostify"
    good = [result for result in results if result.error is None]
    config = {"responsive": True, "displaylogo": False}
    return _PAGE.format(
        title=html.escape(title),
        summary=html.escape(summary),
        plot=_figure(good, metric).to_html(full_html=False, include_plotlyjs=True, config=config),
        table=_table(good),
        failed=_failures([result for result in results if result.error is not None]),
    )


def figures(result: TrialResult) -> dict[str, str]:
    """The figures of a trial in units that are easily read, by their titles; empty where there is none."""
    latency = "" if result.latency is None else f"{1e3 * result.latency:.3g} ms"
    spread = ""
    if result.latency_share is not None and result.latency_low is not None and result.latency_high is not None:
        spread = f"{result.latency_share:.1%} ({result.latency_low:.1%} to {result.latency_high:.1%})"
    return {
        "top-1": _percent(result.top1, 2),
        "agreement": _percent(result.agreement, 2),
        "FLOPs": "" if result.flops is None else amount("flops", result.flops),
        "of FLOPs": _percent(result.flops_share),
        "params": "" if result.params is None else amount("params", result.params),
        "of params": _percent(result.params_share),
        "latency": latency,
        "of latency (quartiles)": spread,
        "trial took": f"{result.seconds:.3g} s",
    }


def _percent(share: float | None, digits: int = 1) -> str:
    return "" if share is None else f"{share:.{digits}%}"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return json.dumps(value) if isinstance(value, list) else str(value)


def _table(trials: Sequence[TrialResult]) -> str:
    """A row for each trial: its settings, then its figures; originals stand out."""
    settings = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    titles = [*settings, *(figures(trials[0]) if trials else ())]
    rows = [[_text(trial.settings.get(key, "")) for key in settings] + list(figures(trial).values()) for trial in trials]
    classes = ["original" if Trial(trial.settings).is_original else "student" for trial in trials]
    return _html_table(titles, rows, ["titles", *classes])


def _failures(trials: Sequence[TrialResult]) -> str:
    """A row for each trial that failed, with the sentence that says why; empty where none did."""
    if not trials:
        return ""
    rows = [[trial.described(), trial.error or ""] for trial in trials]
    return f"<h2>Failed</h2>\n{_html_table(['settings', 'why'], rows, ['sentence'] * (len(rows) + 1))}"


def _html_table(titles: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str]) -> str:
    """A table in HTML, with the class of each of its rows, that of the titles the first."""
    lines: list[str] = []
    for row, name in zip([titles, *rows], classes, strict=True):
        cell = "td" if lines else "th"
        cells = "".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in row)
        lines.append(f'<tr class="{name}">{cells}</tr>')
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _figure(trials: Sequence[TrialResult], metric: str) -> "go.Figure":
    """One of the scores against one of the costs, both chosen by a menu: students, originals and the Pareto front."""
    import plotly.graph_objects as go

    scores = sorted((score for score in SCORES if any(_has(trial, score) for trial in trials)), key=lambda s: s.name != metric)
    pairs = [(cost, score) for score in scores or SCORES[:1] for cost in COSTS]
    figure, counts = go.Figure(), []
    for number, (cost, score) in enumerate(pairs):
        traces = _traces([trial for trial in trials if _has(trial, cost) and _has(trial, score)], cost, score)
        counts.append(len(traces))
        for trace in traces:
            figure.add_scatter(**trace, visible=number == 0)
    buttons = [
        {
            "label": f"{score.title} against {cost.title}",
            "method": "update",
            "args": [{"visible": [n == number for n, count in enumerate(counts) for _ in range(count)]}, _layout(cost, score)],
        }
        for number, (cost, score) in enumerate(pairs)
    ]
    figure.update_layout(
        template="plotly_white",
        height=520,
        margin={"l": 70, "r": 40, "t": 90, "b": 60},
        hoverlabel={"align": "left"},
        modebar={"orientation": "v"},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        updatemenus=[{"buttons": buttons, "x": 0, "y": 1.22, "xanchor": "left", "yanchor": "top"}],
    )
    figure.update_layout(_layout(*pairs[0]))
    return figure


def _has(trial: TrialResult, axis: Axis) -> bool:
    return getattr(trial, axis.name) is not None


def _layout(cost: Axis, score: Axis) -> dict[str, object]:
    layout: dict[str, object] = {}
    for letter, axis in (("x", cost), ("y", score)):
        layout |= {f"{letter}axis.title.text": axis.title, f"{letter}axis.tickformat": axis.ticks}
        layout[f"{letter}axis.ticksuffix"] = axis.suffix
    return layout


def _traces(trials: Sequence[TrialResult], cost: Axis, score: Axis) -> list[dict[str, object]]:
    """Points of students, a line through the Pareto front, and a star for each original."""
    originals = [trial for trial in trials if Trial(trial.settings).is_original]
    students = [trial for trial in trials if not Trial(trial.settings).is_original]
    front: list[TrialResult] = []
    for trial in sorted(trials, key=lambda one: (getattr(one, cost.name), -getattr(one, score.name))):
        if not front or getattr(trial, score.name) > getattr(front[-1], score.name):
            front.append(trial)
    line: dict[str, object] = {"mode": "lines", "line": {"shape": "hv", "color": GHOST, "width": 1}, "hoverinfo": "skip"}
    points = [
        ("trials", students, {"color": GHOST, "size": 9}),
        ("the original", originals, {"color": DENSE, "size": 17, "symbol": "star", "line": {"color": "#222", "width": 1}}),
    ]
    traces = [{"x": cost.values(front), "y": score.values(front), "name": "Pareto front", **line}]
    for name, some, marker in points:
        texts = [_hover_text(trial) for trial in some]
        place = {"x": cost.values(some), "y": score.values(some), "text": texts, "hovertemplate": "%{text}<extra></extra>"}
        traces.append({**place, "mode": "markers", "marker": marker, "name": name})
    return traces


def _hover_text(trial: TrialResult) -> str:
    """The model, the settings and the figures of a trial, a line each."""
    settings = {"": trial.settings["model"], **{key: value for key, value in trial.settings.items() if key != "model"}}
    named = [f"{key} {_text(value)}".strip() for key, value in settings.items() if value is not None]
    model, *lines = [html.escape(line, quote=False) for line in named]  # plotly knows no &quot;
    shown = [f"{title} {text}" for title, text in figures(trial).items() if text]
    return "<br>".join([f"<b>{model}</b>", *(lines or ["the original"]), "", *shown])
