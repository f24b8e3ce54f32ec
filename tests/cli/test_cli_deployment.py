"""Commands that time students and export them."""

import json

import torch
from helpers.cli import run


def test_only_if_faster(monkeypatch, capsys, folder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    for name in ("TURN", "LAYER_TURN"):
        monkeypatch.setattr(f"ghostify.conversion.runtime_timer.{name}", 0.005)
    for most, code in ((1e9, 0), (0, 2)):  # whatever the clock says, and whatever it says
        monkeypatch.setattr("ghostify.conversion.only_if_faster.MOST", most)
        options = ["--factory", "mynets:build", "--input", "1x3x16x16", "--only-if-faster", "eager", "--out", "s.safetensors"]
        found, _, error = run(monkeypatch, capsys, "convert", *options)
        assert found == code, error
    assert "not faster on eager" in error.replace("\n", " ")
    assert (folder / "cache" / "ghostify" / "latency.json").exists()


def test_export_and_bench(monkeypatch, capsys, folder):
    model = ["--factory", "mynets:build"]
    assert run(monkeypatch, capsys, "convert", *model, "--out", "s.safetensors")[0] == 0
    code, out, _ = run(monkeypatch, capsys, "export", "s.safetensors", *model, "--input", "1x3x16x16", "--out", "s.pt2")
    assert code == 0
    assert "same outputs" in out
    assert torch.export.load(folder / "s.pt2").module()(torch.randn(3, 3, 16, 16)).shape[0] == 3
    code, _, error = run(monkeypatch, capsys, "export", "s.safetensors", "--input", "1x3x16x16", "--out", "s.pt2")
    assert (code, "factory" in error) == (2, True)
    options = ["--input", "1x3x16x16", "--runtimes", "eager,channels_last", "--batch-sizes", "1,2", "--repeats", "1", "--json"]
    code, out, _ = run(monkeypatch, capsys, "bench", *model, *options)
    assert code == 0
    assert len(json.loads(out)["timings"]) == 8
    code, _, error = run(monkeypatch, capsys, "bench", *model, "--batch-sizes", "1.5")
    assert (code, "whole numbers" in error) == (2, True)
