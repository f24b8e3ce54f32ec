"""A page with an interactive plot and the table of a sweep, in one file that needs nothing from the network."""

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .sweep_result import SweepResult

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


def sweep_page(found: "SweepResult") -> str:
    """The page's HTML."""
    import plotly.graph_objects as go

    frame = found.to_frame()
    good = frame[frame["error"].isna()]
    settings = [name for name in frame.columns[: frame.columns.get_loc("params")] if name != "model"]
    told = [
        "<br>".join([str(row["model"]), *(f"{name} {row[name]}" for name in settings if row[name] == row[name] and row[name])])
        for _, row in good.iterrows()
    ]
    figure = go.Figure()
    costs = {"flops": "FLOPs (multiply-adds)", "params": "params", "latency": "latency of one input, s"}
    for number, cost in enumerate(costs):
        front = found.pareto(cost) if len(good) else good
        shown = number == 0
        figure.add_scatter(x=good[cost], y=good[found.metric], mode="markers", text=told, name="trials", visible=shown)
        figure.add_scatter(
            x=front[cost], y=front[found.metric], mode="lines", line_shape="hv", name="Pareto front", visible=shown,
            hoverinfo="skip",
        )  # fmt: skip
    buttons = [
        {
            "label": cost,
            "method": "update",
            "args": [{"visible": [i // 2 == number for i in range(6)]}, {"xaxis.title.text": title}],
        }
        for number, (cost, title) in enumerate(costs.items())
    ]
    figure.update_layout(
        template="plotly_white", height=480, margin={"l": 60, "r": 20, "t": 40, "b": 50},
        xaxis_title=costs["flops"], yaxis={"title": "top-1" if found.metric == "top1" else "agreement", "tickformat": ".1%"},
        updatemenus=[{"buttons": buttons, "type": "buttons", "direction": "right", "x": 0, "y": 1.14, "xanchor": "left"}],
    )  # fmt: skip
    return _PAGE.format(
        title=html.escape(
            f"ghostify sweep: {', '.join(dict.fromkeys(map(str, frame['model'])))}" if len(frame) else "ghostify"
        ),
        summary=html.escape(found.summary()),
        plot=figure.to_html(full_html=False, include_plotlyjs=True),
        table=frame.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}"),
    )
