"""A page with an interactive plot and the table of a sweep, in one file that needs nothing from the network."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

COSTS = {"flops": "FLOPs (multiply-adds)", "params": "params", "latency": "latency of one input, s"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.3rem; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }}
th {{ position: sticky; top: 0; background: #fff; }}
.scroll {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<pre>{summary}</pre>
{plot}
<div class="scroll">{table}</div>
</body>
</html>
"""


def sweep_page(frame: "pd.DataFrame", fronts: "Mapping[str, pd.DataFrame]", metric: str, summary: str) -> str:
    """The HTML of a whole page.

    Args:
        frame: the trials, a row each: their settings, then their figures from ``params`` on.
        fronts: the rows of the Pareto front for each of ``flops``, ``params`` and ``latency``.
        metric: the column that trials are judged by, ``"top1"`` or ``"agreement"``.
        summary: the totals in a few lines of plain text.
    """
    title = f"ghostify sweep: {', '.join(dict.fromkeys(map(str, frame['model'])))}" if len(frame) else "ghostify"
    figure = _figure(frame[frame["error"].isna()], fronts, metric)
    return _PAGE.format(
        title=html.escape(title),
        summary=html.escape(summary),
        plot=figure.to_html(full_html=False, include_plotlyjs=True),
        table=frame.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}"),
    )


def _figure(trials: "pd.DataFrame", fronts: "Mapping[str, pd.DataFrame]", metric: str) -> "go.Figure":
    """Accuracy against one of the costs at a time, which buttons choose among."""
    import plotly.graph_objects as go

    figure = go.Figure()
    texts = _hover_texts(trials)
    for number, cost in enumerate(COSTS):
        x, y, shown = trials[cost], trials[metric], number == 0
        figure.add_scatter(x=x, y=y, mode="markers", text=texts, name="trials", visible=shown)
        line = {"mode": "lines", "line_shape": "hv", "hoverinfo": "skip"}
        figure.add_scatter(x=fronts[cost][cost], y=fronts[cost][metric], name="Pareto front", visible=shown, **line)
    buttons = _buttons(list(COSTS))
    figure.update_layout(
        template="plotly_white",
        height=480,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        xaxis_title=COSTS["flops"],
        yaxis={"title": "top-1" if metric == "top1" else "agreement", "tickformat": ".1%"},
        updatemenus=[{"buttons": buttons, "type": "buttons", "direction": "right", "x": 0, "y": 1.14, "xanchor": "left"}],
    )
    return figure


def _hover_texts(trials: "pd.DataFrame") -> list[str]:
    """For each trial its model and those of its settings that are neither missing nor empty, a line each."""
    settings = [name for name in trials.columns[: trials.columns.get_loc("params")] if name != "model"]
    return [
        "<br>".join([str(row["model"]), *(f"{name} {row[name]}" for name in settings if row[name] == row[name] and row[name])])
        for _, row in trials.iterrows()
    ]


def _buttons(costs: Sequence[str]) -> list[dict[str, object]]:
    """A button for each cost, which shows its two traces, hides the others and names the axis."""
    return [
        {
            "label": cost,
            "method": "update",
            "args": [{"visible": [i // 2 == number for i in range(2 * len(costs))]}, {"xaxis.title.text": COSTS[cost]}],
        }
        for number, cost in enumerate(costs)
    ]
