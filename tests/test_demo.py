"""ghostify demo: a network of digits, compressed."""

import json
from dataclasses import replace

import pytest
from helpers.cli import run

from ghostify import demo
from ghostify.compression.report import CompressionReport, NetworkFigures

ORIGINAL = NetworkFigures(params=280_000, flops=7_100_000, bytes=1_120_000, latency=0.012, score=0.98)
STUDENT = NetworkFigures(params=60_000, flops=2_000_000, bytes=240_000, latency=0.005, score=0.976)
REPORT = CompressionReport("Sequential", "max_drop 0.02", (), ORIGINAL, STUDENT, 256, 500, "top1", runtime="eager, batch 64")


@pytest.fixture
def shown(monkeypatch, capsys):
    """What the command makes of a student with other figures than STUDENT's: its code, output and error."""

    def show(*options, **figures):
        monkeypatch.setattr(demo, "trained_cnn", lambda progress: None)
        monkeypatch.setattr(demo, "run_demo", lambda model, progress: replace(REPORT, student=replace(STUDENT, **figures)))
        return run(monkeypatch, capsys, "demo", *options)

    return show


def test_the_figures_as_json(shown):
    code, out, _ = shown("--json")
    assert code == 0
    report = json.loads(out)
    assert report["original"]["params"] == 280_000
    assert report["student"]["score"] == 0.976
    assert report["judging"] == 500


def test_the_table(shown):
    code, out, _ = shown()
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["top-1", "98.00%", "97.60%", "-0.40", "points"] in rows
    assert ["parameters", "280k", "60k", "4.67x", "fewer"] in rows
    assert ["FLOPs", "7.1M", "2M", "3.55x", "fewer"] in rows
    assert ["file", "1.12MB", "240kB", "4.67x", "smaller"] in rows
    assert ["time", "of", "a", "batch", "12ms", "5ms", "2.40x", "faster"] in rows


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"params": 280_000}, "not smaller"),
        ({"score": 0.95}, "more than 2% behind the original"),
        ({"latency": 0.012}, "not faster"),
    ],
)
def test_it_fails_when_the_student_does_not_keep_the_promise(shown, figures, message):
    code, _, err = shown(**figures)
    assert code == 2
    assert message in " ".join(err.split())
