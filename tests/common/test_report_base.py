"""All reports have the same ways out: frame, CSV, JSON, Markdown, HTML, text, plot."""

import csv
import io
import json
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from rich.console import Console

from ghostify import ArgumentError
from ghostify.calibration.report import CalibrationReport, SiteResult
from ghostify.common.report import ReportBase
from ghostify.compression.report import CompressionReport, CompressionStep, NetworkFigures
from ghostify.conversion.report import Report, Row, Total
from ghostify.conversion.sensitivity_table import Header, Sensitivity, SiteSensitivity
from ghostify.deployment.fold_report import FoldedPart, FoldReport
from ghostify.deployment.latency_report import LatencyReport, Timing
from ghostify.distillation.report import EpochResult, RecoveryReport
from ghostify.exploration.sweep_result import SweepResult
from ghostify.exploration.trial import TrialResult

mpl.use("Agg")

CONVERTED = Row("a.conv", "conv", "conv, norm", 8, 16, (3, 3), 2.0, "depthwise", 8, 1152, 650, 11520, 6500, None)
DENSE = Row("b.conv", "conv", "conv", 3, 8, (1, 1), None, "", 0, 24, 24, 240, 240, "first & <small>")
HEADER = Header("Net", 16, (1.5, 2.0), "depthwise", 3, 0, 1, 2)
REPORTS = {
    "report": Report("Net", ((1, 3, 8, 8),), (CONVERTED, DENSE), Total(1200, 12000, 64), Total(700, 7000, 64), 0.9),
    "sensitivity": Sensitivity(
        HEADER, tuple(SiteSensitivity(name, s, 8, "depthwise", 0.1 * s, 0.01 * s) for name in "ab" for s in HEADER.ratios)
    ),
    "calibration": CalibrationReport(
        "Net",
        "least_squares",
        32,
        1.5,
        (SiteResult("a", "conv", "depthwise", 0.5, 0.25, "", None), SiteResult("b", "conv", "", None, None, "", "not seen")),
        ("few images",),
    ),
    "recovery": RecoveryReport(
        "Net",
        (EpochResult(0, 0, scores={"top1": 0.5}), EpochResult(1, 9, 0.1, 2.0, {"logits": 1.0}, {"top1": 0.75}, 3.0, 100.0)),
        1,
        "all epochs done",
    ),
    "latency": LatencyReport(
        (
            Timing("dense", "eager", 1, 1000, 1.0, 0.02, 0.01, 0.03, 1.0),
            Timing("student", "eager", 1, 500, 2.0, 0.01, 0.005, 0.015, 2.0),
            Timing("dense", "cuda", 1, 1000, 1.0, problem="there is no GPU"),
            Timing("student", "cuda", 1, 500, 2.0, problem="there is no GPU"),
        ),
        2,
        "a machine",
    ),
    "folding": FoldReport((FoldedPart("a", "norm"), FoldedPart("b", "norm", "used twice"), FoldedPart("c", "identity"))),
    "sweep": SweepResult(
        (
            TrialResult({"model": "net"}, 1200, 12000, 1.0, 1.0, 0.02, 0.75, 1.0, 1.0),
            TrialResult({"model": "net", "ratio": 2.0, "method": "block"}, 700, 7000, 0.58, 0.58, 0.01, 0.5, 0.75, 2.0),
            TrialResult({"model": "net", "ratio": 4.0, "method": "block"}, error="it broke"),
        ),
        {},
    ),
    "compression": CompressionReport(
        "Net",
        "at most 1 point less",
        (
            CompressionStep("one pass", 1.0),
            CompressionStep("probe", 2.0, 0.5, 0.6, 0.5, score=0.75, drop=0.01, drop_at_most=0.02, kept=False),
            CompressionStep("probe", 2.0, 0.75, 0.8, 0.75, score=0.755, drop=0.005, drop_at_most=0.009, kept=True),
        ),
        NetworkFigures(1200, 12000, 4800, score=0.76),
        NetworkFigures(960, 9000, 3840, score=0.755),
        16,
        1000,
        "top1",
        2,
    ),
}
LISTS = {"report": "rows", "sensitivity": "rows", "calibration": "sites", "recovery": "epochs", "latency": "timings"}
LISTS |= {"folding": "parts", "sweep": "results", "compression": "steps"}
WAYS = ("csv", "json", "markdown", "html")
EMPTY = {
    "report": Report("Net", None, (), Total(0, None, None), Total(0, None, None), None),
    "sensitivity": Sensitivity(HEADER, ()),
    "calibration": CalibrationReport("Net", "block", 8, 0.5, (), ()),
    "latency": LatencyReport((), 1, "a machine"),
    "folding": FoldReport(()),
    "sweep": SweepResult((), {}),
}


@pytest.fixture(params=REPORTS)
def name(request):
    return request.param


@pytest.fixture
def report(name):
    return REPORTS[name]


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def test_these_are_all_reports():
    assert {type(report) for report in REPORTS.values()} == set(ReportBase.__subclasses__())


@pytest.mark.parametrize("way", WAYS)
def test_a_file_holds_the_text_that_is_returned(report, way, tmp_path):
    path = tmp_path / "folder" / "file"
    text = getattr(report, f"to_{way}")(path)
    written = path.read_text(encoding="utf-8")
    ids = r"[0-9a-f]{8}-[0-9a-f-]{27}"  # that plotly gives a plot anew each time
    assert written == text
    assert re.sub(ids, "", text) == re.sub(ids, "", getattr(report, f"to_{way}")())
    assert [file.name for file in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("way", WAYS)
def test_a_path_that_cannot_be_written_is_one_sentence(report, way, tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(ArgumentError, match=r"^'.*' can't be written: [^\n]*$"):
        getattr(report, f"to_{way}")(str(tmp_path / "old" / "file"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArgumentError, match=r"^'.*' can't be written: [^\n]*$"):
        getattr(report, f"to_{way}")(tmp_path / "folder")
    assert (tmp_path / "old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "old"]


@pytest.mark.parametrize("way", WAYS)
def test_an_old_file_is_whole_when_writing_breaks_off(report, way, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ArgumentError, match="can't be written: No space left on device"):
        getattr(report, f"to_{way}")(tmp_path / "file")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_csv_has_the_columns_and_values_of_the_frame(report):
    frame = report.to_frame()
    frame = frame if report.index is None else frame.reset_index()
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert list(rows[0]) == list(frame.columns)
    assert [[row[column] for column in frame] for row in rows] == [
        ["" if not isinstance(value, tuple) and pd.isna(value) else str(value) for value in line]
        for line in frame.astype(object).itertuples(index=False)
    ]


def test_json_has_the_values_of_the_frame(name, report):
    frame = report.to_frame()
    frame = frame if report.index is None else frame.reset_index()
    rows = json.loads(report.to_json())[LISTS[name]]
    assert len(rows) == len(frame)
    for row, (_, line) in zip(rows, frame.astype(object).iterrows(), strict=True):
        flat = {key: value for key, value in row.items() if key not in ("settings", "scores", "parts")}
        flat |= row.get("settings", {}) | row.get("scores", {})
        flat |= {f"loss_{part}": value for part, value in row.get("parts", {}).items()}
        assert flat.keys() - {"format"} <= set(frame.columns)
        for column, value in line.items():
            known = flat.get(column)
            assert tuple(known) == value if isinstance(value, tuple) else known == value or (known is None and pd.isna(value))


def test_markdown_and_html_have_a_line_for_each_row_of_the_frame(name, report):
    frame = report.to_frame()
    frame = frame if report.index is None else frame.reset_index()
    column = {"latency": "runtime", "sweep": "model"}.get(name, frame.columns[0])
    firsts = [str(value) for value in frame[column]]
    table, totals = report.to_markdown().split("\n\n")
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    assert [line[0].strip() for line in lines[2:]] == firsts
    assert [line.rstrip() for line in totals.splitlines()] == report.summary().splitlines()
    body = report._repr_html_().split("<tbody>")[1].split("</tbody>")[0]
    assert re.findall(r"<tr><td>(.*?)</td>", body) == firsts
    assert body.count("<td>") == len(firsts) * len(lines[0])


def test_html_escapes_what_names_and_reasons_hold():
    for page in (REPORTS["report"].to_html(), REPORTS["report"]._repr_html_()):
        assert "first &amp; &lt;small&gt;" in page
        assert "<small>" not in page
    assert r"| a\|b | norm |" in FoldReport((FoldedPart("a|b", "norm"),)).to_markdown()


def test_text_ends_with_the_summary(report):
    assert str(report).endswith(report.summary().rstrip())
    file = io.StringIO()
    Console(file=file, width=report.width).print(report)
    assert file.getvalue().rstrip().endswith(report.summary().splitlines()[-1][-40:])


def test_plot_draws_into_the_axes_given(report):
    _, (left, right) = plt.subplots(1, 2)
    assert report.plot(ax=left) is left
    assert left.has_data()
    assert not right.has_data()
    assert len(plt.get_fignums()) == 1
    assert report.plot().figure is not left.figure


def test_bars_of_latency_are_medians_with_their_quartiles():
    ax = REPORTS["latency"].plot()
    assert [bar.get_height() for bar in ax.patches] == [0.02, 0.01]
    assert [tuple(line[:, 1]) for lines in ax.collections for line in lines.get_segments()] == [(0.01, 0.03), (0.005, 0.015)]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["eager\nbatch 1"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dense", "student"]
    with pytest.raises(ArgumentError, match="no network was timed at batch_size=8"):
        REPORTS["latency"].plot(batch_size=8)


def test_bars_of_folding_are_numbers_of_layers():
    ax = REPORTS["folding"].plot()
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in ax.containers}
    assert heights == {"folded": [1, 0, 1], "left": [1, 0, 0]}
    assert ax.get_title(loc="left") == "2 of 3 layers folded"


@pytest.mark.parametrize("name", EMPTY)
def test_a_report_of_nothing_has_no_rows(name):
    report = EMPTY[name]
    assert len(report.to_frame()) == 0
    assert report.to_csv().splitlines() == [",".join(report._columns())]
    assert json.loads(report.to_json())[LISTS[name]] == []
    assert len(report.to_markdown().split("\n\n")[0].splitlines()) == 2
    assert "<td>" not in report.to_html()
    assert str(report).endswith(report.summary())
