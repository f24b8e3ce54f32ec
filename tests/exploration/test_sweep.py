"""sweep(): every combination once, whatever happens on the way."""

import json
import sys

import numpy as np
import pytest
import torch
from helpers.networks import Residual
from helpers.sweeps import sweep_of, table

import ghostify
from ghostify.exploration.trial import Trial
from ghostify.exploration.trial_grid import make_trials


def test_every_combination_and_the_original(done, parts):
    folder, found = done
    assert len(found.results) == 6
    assert not found.failed
    original = found.results[0]
    assert (original.settings, original.top1, original.flops_share) == ({"model": "Residual"}, 1.0, 1.0)
    assert (original.latency_share, original.latency > 0) == (1, True)
    for result in found.results[1:]:
        assert 0 < result.latency_low <= result.latency_share <= result.latency_high
        trial = folder / "trials" / Trial(result.settings).name
        assert sorted(path.name for path in trial.iterdir()) == ["log.txt", "recipe.json", "trial.json"]
        assert json.loads((trial / "recipe.json").read_text())["sites"]
        assert result.params_share < 1
    target = next(result for result in found.results if "target" in result.settings)
    assert 0.58 < target.flops_share <= 0.6
    calibrated = {r.settings["ratio"]: r for r in found.results if r.settings.get("method") == "least_squares"}
    student = ghostify.convert(parts["model"], 4)
    ghostify.calibrate(student, parts["model"], parts["images"], method="least_squares")
    assert calibrated[4].top1 == ghostify.evaluate(student, parts["val"]).top1


def test_what_is_done_is_not_done_again(done, parts, monkeypatch):
    folder, found = done
    monkeypatch.setattr(
        sys.modules["ghostify.exploration.sweep"], "run_trial", lambda task, trial: pytest.fail(f"{trial.name} ran again")
    )
    assert sweep_of(parts, folder).to_frame().equals(found.to_frame())


def test_more_settings_join_what_is_there(done, parts, tmp_path):
    first = sweep_of(parts, tmp_path, {"ratio": [2], "method": ["none"]})
    more = sweep_of(parts, tmp_path, {"ratio": [2, 4], "method": ["none", "least_squares"]})
    assert len(first.results) == 2
    assert {Trial(r.settings).name for r in first.results} < {Trial(r.settings).name for r in more.results}
    assert first.results[1] in more.results


def test_workers_find_the_same(done, parts, tmp_path):
    assert table(sweep_of(parts, tmp_path, workers=2)).equals(table(done[1]))


def test_a_failed_trial_does_not_stop_the_rest(parts, tmp_path):
    grid = {"ratio": [2], "method": ["none"], "ratios": [{"conv1": 3}, {"nothing": 2}]}
    found = sweep_of(parts, tmp_path, grid)
    assert len(found.results) == 3
    (failed,) = found.failed
    assert failed.error.startswith("ArgumentError: ratios['nothing'] matches no convolution")
    assert "1 of them failed" in str(found)
    log = (tmp_path / "trials" / Trial(failed.settings).name / "log.txt").read_text()
    assert "Traceback" in log
    before = (tmp_path / "trials" / Trial(failed.settings).name / "trial.json").stat().st_mtime_ns
    sweep_of(parts, tmp_path, grid)
    assert (tmp_path / "trials" / Trial(failed.settings).name / "trial.json").stat().st_mtime_ns == before
    sweep_of(parts, tmp_path, grid, retry=True)
    assert (tmp_path / "trials" / Trial(failed.settings).name / "trial.json").stat().st_mtime_ns > before


def test_recovery_and_several_models(parts, tmp_path):
    models = {"small": parts["model"], "wide": Residual(32).eval()}
    grid = {"ratio": [2], "method": ["none"], "recover": [0, 2, {"steps": 1, "lr": 0.1}], "model": ["small"]}
    found = ghostify.sweep(models, grid, images=parts["images"], val=parts["val"], out=tmp_path)
    assert not found.failed
    assert [result.settings for result in found.results[:2]] == [{"model": "small"}, {"model": "wide"}]
    assert len(found.results) == 5


def test_trial_names_differ_and_stay():
    trials = make_trials({"ratio": [1.5, 2, np.float64(3)], "ratios": [{"a": 2}, {"a": None}], "cheap": ["auto"]}, ["m"])
    assert len({trial.name for trial in trials}) == 7
    assert all(Trial(json.loads(json.dumps(trial.settings))).name == trial.name for trial in trials)


def test_targets_of_absorbed_ghosts_go_by_one_pass(parts, tmp_path):
    grid = {"target": [{"flops": 0.7}], "cheap": ["absorbed"], "method": ["none", "least_squares"]}
    found = sweep_of(parts, tmp_path, grid)
    assert not found.failed
    assert [0.4 < result.flops_share <= 0.7 for result in found.results[1:]] == [True, True]
    (file,) = tmp_path.glob("sensitivity_*.json")
    assert [curve.name for curve in ghostify.Sensitivity.load(file).curves] == ["conv1"]


def test_drops_and_runtimes(parts, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys.modules["ghostify.conversion.runtime_timer"], "BESIDE_REPEATS", 2)
    torch.manual_seed(1)
    x = torch.randn(200, 3, 8, 8)
    val = (x, parts["model"](x).argmax(1))
    grid = [
        {"max_drop": [0.5], "method": ["least_squares"], "recover": [0, 1]},
        {"max_drop": [0.001], "method": ["least_squares"]},
        {"target": [{"flops": 0.7}], "cheap": ["absorbed"], "runtime": ["channels_last"], "method": ["none"]},
    ]
    found = ghostify.sweep(parts["model"], grid, images=parts["images"], val=val, out=tmp_path / "sweep")
    assert ["max_drop=0.001 can't be told by 200 images" in result.error for result in found.failed] == [True]
    drops = [result for result in found.results if result.settings.get("max_drop") == 0.5]
    assert [result.flops_share < 1 and result.top1 > 0.5 for result in drops] == [True, True]
    assert [r.error for r in found.results if "runtime" in r.settings] == [None]
