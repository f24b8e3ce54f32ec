"""Processes of a sweep that are killed, here and on a cluster."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import Residual
from helpers.processes import forked
from helpers.sweeps import sweep_of, table
from torch import nn

import ghostify
from ghostify.exploration.sweep_result import SweepResult


def search_path():
    """Where other processes find what stands beside the tests."""
    folders = Path(__file__).parents[:2]  # this file's, and that of tests/helpers
    return os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])


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


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_leave_the_same_table(tmp_path, kills):
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
    killed = 0
    for _ in range(4 * kills):
        process = start("killed")
        process.join(timeout=taken / 11 * generator.uniform(0.2, 1.8))
        if process.exitcode is None:
            process.kill()
            process.join()
            killed += 1
        if killed == kills:
            break
        if process.exitcode == 0:  # it was through before the last kill: begin again
            for path in (tmp_path / "killed" / "trials").glob("*/trial.json"):
                path.unlink()
    assert killed == kills
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    tables = [table(SweepResult.load(tmp_path / folder)) for folder in ("whole", "killed")]
    assert len(tables[0]) == 12
    assert tables[0].equals(tables[1])


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


@pytest.mark.slow
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
        found = sweep_of({**parts, "model": model.eval()}, tmp_path / "killed", grid, engine="ray")
        measured = ghostify.sensitivity(parts["model"], parts["images"], (2,), engine="ray")
    finally:
        ray.shutdown()
    alone = ghostify.sensitivity(parts["model"], parts["images"], (2,))
    assert [(row.name, row.kl) for row in measured.rows] == [(row.name, pytest.approx(row.kl, rel=1e-3)) for row in alone.rows]
    assert (tmp_path / "flag").exists()
    wanted = [r for r in done[1].results if r.settings.get("method", "none") == "none" and "target" not in r.settings]
    assert [(r.params, r.flops, r.top1, r.error) for r in found.results] == [(r.params, r.flops, r.top1, None) for r in wanted]
