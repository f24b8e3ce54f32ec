"""sweep(): every combination once, whatever happens on the way; tables, fronts, pages."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import Residual, randomize
from helpers.processes import forked
from torch import nn

import ghostify
from ghostify.exploration.sweep import make_trials
from ghostify.exploration.sweep_result import SweepResult
from ghostify.exploration.trial import Result, Trial

EXACT = ["params", "flops", "params_share", "flops_share", "top1", "agreement", "error"]
GRID = [{"ratio": [2, 4], "method": ["none", "least_squares"]}, {"target": [{"flops": 0.6}], "method": ["none"]}]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    model = randomize(Residual(16))
    images = torch.randn(48, 3, 8, 8)
    ghostify.reestimate_norms(model, images)
    model.head.weight.data.mul_(20)
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)
    return {"model": model, "images": images[:16], "val": (images[16:], labels[16:])}


def run(parts, out, grid=GRID, **options):
    return ghostify.sweep(parts["model"], grid, images=parts["images"], val=parts["val"], out=out, **options)


def table(found):
    frame = found.to_frame()
    return frame[[name for name in frame if name not in ("latency", "seconds")]]


@pytest.fixture(scope="module")
def done(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run(parts, folder)


def test_every_combination_and_the_original(done, parts):
    folder, found = done
    assert len(found.results) == 6
    assert not found.failed
    original = found.results[0]
    assert (original.settings, original.top1, original.flops_share) == ({"model": "Residual"}, 1.0, 1.0)
    for result in found.results[1:]:
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
    assert run(parts, folder).to_frame().equals(found.to_frame())


def test_more_settings_join_what_is_there(done, parts, tmp_path):
    first = run(parts, tmp_path, {"ratio": [2], "method": ["none"]})
    more = run(parts, tmp_path, {"ratio": [2, 4], "method": ["none", "least_squares"]})
    assert len(first.results) == 2
    assert {Trial(r.settings).name for r in first.results} < {Trial(r.settings).name for r in more.results}
    assert first.results[1] in more.results


def test_workers_find_the_same(done, parts, tmp_path):
    assert table(run(parts, tmp_path, workers=2)).equals(table(done[1]))


def test_a_failed_trial_does_not_stop_the_rest(parts, tmp_path):
    grid = {"ratio": [2], "method": ["none"], "ratios": [{"conv1": 3}, {"nothing": 2}]}
    found = run(parts, tmp_path, grid)
    assert len(found.results) == 3
    (failed,) = found.failed
    assert failed.error.startswith("ArgumentError: ratios['nothing'] matches no convolution")
    assert "1 of them failed" in str(found)
    log = (tmp_path / "trials" / Trial(failed.settings).name / "log.txt").read_text()
    assert "Traceback" in log
    before = (tmp_path / "trials" / Trial(failed.settings).name / "trial.json").stat().st_mtime_ns
    run(parts, tmp_path, grid)
    assert (tmp_path / "trials" / Trial(failed.settings).name / "trial.json").stat().st_mtime_ns == before
    run(parts, tmp_path, grid, retry=True)
    assert (tmp_path / "trials" / Trial(failed.settings).name / "trial.json").stat().st_mtime_ns > before


def test_recovery_and_several_models(parts, tmp_path):
    models = {"small": parts["model"], "wide": Residual(32).eval()}
    grid = {"ratio": [2], "method": ["none"], "recover": [0, 2, {"steps": 1, "lr": 0.1}], "model": ["small"]}
    found = ghostify.sweep(models, grid, images=parts["images"], val=parts["val"], out=tmp_path)
    assert not found.failed
    assert [result.settings for result in found.results[:2]] == [{"model": "small"}, {"model": "wide"}]
    assert len(found.results) == 5


def search_path():
    """Where other processes find what stands beside the tests."""
    return os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


def swept(out, begun):
    """Twelve trials, in a process that may be killed."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Residual(16).eval()
    images = torch.randn(24, 3, 8, 8)
    ghostify.reestimate_norms(model, images)
    grid = [
        {"ratio": [1.5, 2, 3, 4], "cheap": ["depthwise", "pointwise"], "method": ["none"]},
        {"target": [{"flops": 0.6}, {"flops": 0.8}, {"params": 0.7}], "method": ["none"]},
    ]
    begun.set()
    ghostify.sweep(model, grid, images=images[:8], val=(images[8:], torch.arange(16) % 10), out=out)


def test_ten_kills_leave_the_same_table(tmp_path):
    """Twelve trials; each kill falls somewhere after the sweep has begun, at a time drawn from how long it takes."""

    def start(folder):
        begun = multiprocessing.get_context("forkserver").Event()
        process = forked(swept, tmp_path / folder, begun)
        assert begun.wait(timeout=300)
        return process

    whole = start("whole")
    begun = time.monotonic()
    whole.join()
    assert whole.exitcode == 0
    taken = time.monotonic() - begun
    generator = np.random.default_rng(0)
    kills = 0
    for _ in range(40):
        process = start("killed")
        process.join(timeout=taken / 11 * generator.uniform(0.2, 1.8))
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        if kills == 10:
            break
        if process.exitcode == 0:  # it was through before ten kills: begin again
            for path in (tmp_path / "killed" / "trials").glob("*/trial.json"):
                path.unlink()
    assert kills == 10
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    tables = [table(SweepResult.load(tmp_path / folder)) for folder in ("whole", "killed")]
    assert len(tables[0]) == 12
    assert tables[0].equals(tables[1])


def some_results(count=200):
    generator = np.random.default_rng(0)
    results = [Result({"model": "net"}, 10, 100, 1.0, 1.0, 0.01, 0.9, 1.0)]
    for number in range(count):
        share = generator.uniform(0.2, 0.9)
        flops, top1 = int(100 * share), float(generator.uniform(0.2, 0.89))
        results.append(
            Result({"model": "net", "ratio": 2 + number}, int(10 * share), flops, share, share, 0.01 * share, top1, top1)
        )
    return SweepResult(tuple(results), {})


def test_the_front_is_what_nothing_beats():
    found = some_results()
    front = found.pareto("flops")
    for result in found.results:
        beaten = any(
            other.flops <= result.flops
            and other.top1 >= result.top1
            and (other.flops, other.top1) != (result.flops, result.top1)
            for other in found.results
        )
        assert ((front["flops"] == result.flops) & (front["top1"] == result.top1)).any() == (not beaten)


def test_the_best_within_limits():
    found = some_results()
    fitting = [r for r in found.results if r.flops_share <= 0.5 and r.latency <= 0.004]
    assert found.best(flops_share=0.5, latency=0.004).top1 == max(r.top1 for r in fitting)
    with pytest.raises(ghostify.ArgumentError, match=r"no trial keeps to flops <= 1"):
        found.best(flops=1)
    assert found.best(latency="4ms") == found.best(latency=0.004)
    with pytest.raises(ghostify.ArgumentError, match="limit must be one of"):
        found.best(size=1)
    with pytest.raises(ghostify.ArgumentTypeError, match="limit flops_share must be a number, not None"):
        found.best(flops_share=None)
    with pytest.raises(ghostify.ArgumentError, match="no trial has succeeded"):
        SweepResult((Result({"model": "net"}, error="broken"),), {}).best()


def test_plots_tables_and_the_page(done, tmp_path):
    _, found = done
    for cost in ("flops", "params", "latency"):
        ax = found.plot(cost, by="method")
        assert {"Pareto front", "original"} <= set(ax.get_legend_handles_labels()[1])
    found.to_csv(tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 7
    found.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Plotly.newPlot" in page
    assert 'src="http' not in page
    assert page.count("<tr") == 7
    with pytest.raises(ghostify.ArgumentError, match="by='colour' is no setting"):
        found.plot(by="colour")
    with pytest.raises(ghostify.ArgumentError, match="cost must be one of"):
        found.plot("size")


def test_unreadable_files_are_named_and_left(done, parts, tmp_path):
    found = run(parts, tmp_path, {"ratio": [2], "method": ["none"]})
    bad = tmp_path / "trials" / "other" / "trial.json"
    bad.parent.mkdir()
    for content in ("", "{}", '{"settings": 3}', "[]", '{"settings": {}, "format": 9}'):
        bad.write_text(content)
        again = run(parts, tmp_path, {"ratio": [2], "method": ["none"]})
        assert again.results == found.results
        assert list(again.unreadable) == ["trials/other/trial.json"]
        assert "can't be read: trials/other/trial.json" in str(again)
        assert bad.read_text() == content


def test_trial_names_differ_and_stay():
    trials = make_trials({"ratio": [1.5, 2, np.float64(3)], "ratios": [{"a": 2}, {"a": None}], "cheap": ["auto"]}, ["m"])
    assert len({trial.name for trial in trials}) == 7
    assert all(Trial(json.loads(json.dumps(trial.settings))).name == trial.name for trial in trials)


GRIDS = {
    "near miss": ({"ratoi": [2]}, "grid has the unknown setting 'ratoi'; did you mean 'ratio'"),
    "far miss": ({"xyz": [2]}, "grid has the unknown setting 'xyz'; it may have model, ratio"),
    "empty": ({}, "grid is empty"),
    "no grid": ([], "grid is empty"),
    "no value": ({"ratio": []}, r"grid\['ratio'\] is empty"),
    "one value": ({"ratio": 2}, r"grid\['ratio'\] must be a list of values, not 2"),
    "word": ({"cheap": "auto"}, r"grid\['cheap'\] must be a list of values, not 'auto'"),
    "out of range": ({"ratio": [1]}, "ratio must be"),
    "both": ({"ratio": [2], "target": [{"flops": 0.5}]}, "either ratio or target"),
    "target": ({"target": [{"flop": 0.5}]}, "target must be one of"),
    "method": ({"method": ["magic"]}, "method must be one of 'none', 'least_squares', 'block'"),
    "recover": ({"recover": [-1]}, "recover must be at least 0"),
    "recipe": ({"recover": [{"stepz": 3}]}, "a recipe has no setting 'stepz'"),
    "object": ({"ratio": [torch.nn.ReLU()]}, "grid must hold numbers, words and mappings"),
    "model": ({"model": ["other"], "ratio": [2]}, r"grid\['model'\] must be one of 'Residual', not 'other'"),
    "string": ("ratio", "grid must map settings"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_bad_grids_run_nothing(parts, tmp_path, name):
    grid, message = GRIDS[name]
    with pytest.raises(ghostify.GhostifyError, match=message):
        run(parts, tmp_path / "out", grid)
    assert not (tmp_path / "out").exists()


def test_bad_folders_and_data(parts, done, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(ghostify.ArgumentError, match="is not a folder of a sweep"):
            run(parts, out)
    for change, what in (({"images": parts["images"] + 1}, "images"), ({"model": Residual(16)}, "models")):
        with pytest.raises(ghostify.ArgumentError, match=f"holds another sweep, with other {what}"):
            run({**parts, **change}, done[0])
    with pytest.raises(ghostify.ArgumentError, match=r"is no folder of a sweep: it has no sweep.json"):
        SweepResult.load(tmp_path)
    with pytest.raises(ghostify.ArgumentTypeError, match="images must be data that can be read again and again"):
        run({**parts, "images": iter([parts["images"]])}, tmp_path / "new")
    with pytest.raises(ghostify.ArgumentTypeError, match="model must be a"):
        run({**parts, "model": 3}, tmp_path / "new")
    with pytest.raises(ghostify.ArgumentError, match="engine must be one of"):
        run(parts, tmp_path / "new", engine="spark")
    with pytest.raises(ghostify.ArgumentError, match="resources goes with engine='ray'"):
        run(parts, tmp_path / "new", resources={"num_gpus": 1})
    with pytest.raises(ghostify.ArgumentError, match="model is an empty mapping"):
        run({**parts, "model": {}}, tmp_path / "new")
    with pytest.raises(ghostify.ArgumentError, match=r"no Ray cluster answers at 127.0.0.1:9 within 5 s"):
        run(parts, tmp_path / "new", engine="ray", address="127.0.0.1:9")
    with pytest.raises(ghostify.ArgumentError, match="not of the form host:port"):
        run(parts, tmp_path / "new", engine="ray", address="somewhere")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"val": None}, "not NoneType"),
        ({"images": torch.full((4, 3, 8, 8), torch.nan)}, "NaN"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "no image"),
        ({"model": "no_such_net"}, "unknown model 'no_such_net'"),
    ],
)
def test_data_that_can_not_be_used_leave_no_folder_that_is_spoilt(parts, tmp_path, change, told):
    with pytest.raises(ghostify.ArgumentError, match=f"the original can't be: .*{told}"):
        run({**parts, **change}, tmp_path / "out", {"ratio": [2], "method": ["none"]})
    assert not list((tmp_path / "out").iterdir())
    assert len(run(parts, tmp_path / "out", {"ratio": [2], "method": ["none"]}).results) == 2


class Deadly(nn.Module):
    """Kills the worker that runs it first."""

    def __init__(self, flag):
        super().__init__()
        self.net, self.flag, self.driver = Residual(16), flag, os.getpid()

    def forward(self, x):
        if os.getpid() != self.driver and not os.path.exists(self.flag):
            Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)


def test_a_ray_cluster_one_of_whose_workers_is_killed(parts, done, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests run beside it
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": search_path()}},
    )  # fmt: skip
    try:
        model = Deadly(str(tmp_path / "flag"))
        model.net.load_state_dict(parts["model"].state_dict())
        grid = {"ratio": [2, 4], "method": ["none"]}
        found = run({**parts, "model": model.eval()}, tmp_path / "killed", grid, engine="ray")
        measured = ghostify.sensitivity(parts["model"], parts["images"], (2,), engine="ray")
    finally:
        ray.shutdown()
    alone = ghostify.sensitivity(parts["model"], parts["images"], (2,))
    assert [(row.name, row.kl) for row in measured.rows] == [(row.name, pytest.approx(row.kl, rel=1e-3)) for row in alone.rows]
    assert (tmp_path / "flag").exists()
    wanted = [r for r in done[1].results if r.settings.get("method", "none") == "none" and "target" not in r.settings]
    assert [(r.params, r.flops, r.top1, r.error) for r in found.results] == [(r.params, r.flops, r.top1, None) for r in wanted]
