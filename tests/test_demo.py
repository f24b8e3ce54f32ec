"""ghostify demo: a network of digits, converted, calibrated and distilled."""

import json

import pytest
from helpers.cli import run


@pytest.mark.slow
def test_demo(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "demo", "--json")
    assert code == 0
    original, student = json.loads(out)
    assert student["params"] < 0.6 * original["params"]
    assert student["flops"] < 0.6 * original["flops"]
    assert student["calibrated"] > 0.9
    assert student["calibrated"] > student["accuracy"]
    assert student["recovered"] > 0.9
    assert student["seconds"] > 0


def test_demo_fails_when_the_student_does_not_work(monkeypatch, capsys):
    from ghostify import demo

    monkeypatch.setattr(demo, "IMAGES", 1)
    monkeypatch.setattr(demo, "EPOCHS", 3)
    monkeypatch.setattr(demo, "STEPS", 1)
    code, _, err = run(monkeypatch, capsys, "demo", "--ratio", "30", "--json")
    assert code == 2
    assert "behind the original" in err
