"""Processes that are killed, and several that train together."""

import json
import os
import random
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import distillation_script
from helpers.distillation_script import recover, share_as_one_of
from helpers.processes import forked


def exit_code(folder, dies_at=0):
    """How a process ended that kills itself at some image, if it is told to."""
    process = forked(recover, folder, dies_at)
    process.join(timeout=300)
    return process.exitcode


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_at_random_points_end_in_the_weights_of_a_run_without_any(tmp_path, kills):
    rng = random.Random(0)
    assert exit_code(tmp_path / "whole") == 0
    for _ in range(kills):
        assert exit_code(tmp_path / "broken", rng.randrange(20, 150)) == -signal.SIGKILL
    assert exit_code(tmp_path / "broken") == 0
    whole, broken = (torch.load(tmp_path / name / "weights.pt") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    whole, broken = (
        [line.split(",")[:5] for line in (tmp_path / name / "history.csv").read_text().splitlines()]
        for name in ("whole", "broken")
    )
    assert whole == broken


def torchrun(number, out):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    done = subprocess.run(
        [*launcher, distillation_script.__file__, out], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def forks(number, out):
    """Processes that are told the same by their environment, and have imported what is slow to import."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [forked(share_as_one_of, rank, number, port, out) for rank in range(number)]
    for process in processes:
        process.join(timeout=300)
    assert [process.exitcode for process in processes] == [0] * number


@pytest.mark.parametrize("launch", [forks, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does(tmp_path, launch):
    facts = []
    for number in (1, 2):
        launch(number, tmp_path / "facts.json")
        facts.append(json.loads((tmp_path / "facts.json").read_text()))
    one, two = facts
    assert (one["processes"], two["processes"]) == (1, 2)
    assert np.abs(np.array(one["losses"]) - np.array(two["losses"])).max() < 1e-4
    assert np.abs(np.array(one["weights"]) - np.array(two["weights"])).max() < 1e-4
    assert (one["images"], one["top1"]) == (two["images"], two["top1"])
    assert one["images"] == 67
