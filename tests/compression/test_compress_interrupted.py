"""compress(out=): whatever ends the process, the next call goes on, to the same student."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.digits import digit_net, digits

import ghostify
from ghostify.compression import student_maker
from ghostify.compression.folder import CompressionFolder

IMAGES, LABELS = digits()
LIMITS = {"max_drop": 0.06, "val": (IMAGES[800:], LABELS[800:])}


class Interrupted(BaseException):
    """As of a keyboard."""


@pytest.fixture(scope="module")
def whole():
    return ghostify.compress(digit_net(), IMAGES[:64], **LIMITS)


def outcome(result):
    figures = [(step.step, step.share, step.flops_share, step.score, step.kept) for step in result.report.steps]
    return figures, result.student(IMAGES[:100])


def same(one, other):
    figures, outputs = outcome(one)
    other_figures, other_outputs = outcome(other)
    assert figures == other_figures
    assert torch.equal(outputs, other_outputs)


@pytest.mark.parametrize("after", [0, 2])
def test_an_interrupted_call_goes_on(tmp_path, monkeypatch, whole, after):
    done = []

    def calibrate(*args, **settings):
        if len(done) == after:
            raise Interrupted
        done.append(ghostify.calibrate(*args, **settings))

    monkeypatch.setattr(student_maker, "calibrate", calibrate)
    with pytest.raises(Interrupted):
        ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path, **LIMITS)
    after = -1
    resumed = ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path, **LIMITS)
    same(resumed, whole)
    assert len(done) == len([step for step in whole.report.steps if step.score is not None])  # none of them twice


def test_a_call_that_is_over_is_read(tmp_path, monkeypatch, whole):
    first = ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path, **LIMITS)
    monkeypatch.setattr(student_maker, "calibrate", lambda *args, **settings: pytest.fail("made again"))
    again = ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path, **LIMITS)
    same(first, whole)
    same(again, whole)
    assert torch.equal(ghostify.load(tmp_path / "student.safetensors", digit_net())(IMAGES[:100]), again.student(IMAGES[:100]))


def test_a_student_is_written_before_what_is_said_of_it(tmp_path, monkeypatch, whole):
    """A file of figures without its student would end in an error, and a half one in another student."""

    def keep(self, name, student):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(CompressionFolder, "keep", keep)
        with pytest.raises(Interrupted):
            ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path, **LIMITS)
    assert not (tmp_path / "probe-1.json").exists()
    (tmp_path / "probe-1.json").write_text("{")
    same(ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path, **LIMITS), whole)


def test_times_of_layers_are_kept(tmp_path, clock):
    for _ in range(2):
        ghostify.compress(digit_net(), IMAGES[:64], target={"latency": 0.7}, runtime="eager", out=tmp_path)
        assert clock.count("conv1") == 1
    assert json.loads((tmp_path / "layer_seconds.json").read_text())["layers"]["conv1"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("writes", range(1, 11))
def test_killed_at_any_file(tmp_path, whole, writes):
    """-9 before the file that is written next appears."""
    script = f"""
import os, sys
import torch
from helpers.digits import digit_net, digits
import ghostify
torch.set_num_threads(1)  # as here, or training would end in another network
images, labels = digits()
left, replace = [{writes}], os.replace
def dying(source, target):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
    replace(source, target)
os.replace = dying
ghostify.compress(digit_net(), images[:64], max_drop=0.06, val=(images[800:], labels[800:]), out={str(tmp_path / "run")!r})
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True)
    assert ended.returncode in (-signal.SIGKILL, 0), ended.stderr
    same(ghostify.compress(digit_net(), IMAGES[:64], out=tmp_path / "run", **LIMITS), whole)
