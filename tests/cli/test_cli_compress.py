"""ghostify compress: a limit, pictures, a student in a file, and a table of what changed."""

import json

import numpy as np
import pytest
from helpers.cli import run
from helpers.digits import digit_net, digits
from safetensors.torch import save_file

import ghostify

IMAGES, LABELS = digits()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command with more arguments; gives its code, its output and the file of the student."""
    save_file(digit_net().state_dict(), tmp_path / "digits.safetensors")
    np.save(tmp_path / "images.npy", IMAGES[:600].numpy())
    files = ("--weights", str(tmp_path / "digits.safetensors"), "--images", str(tmp_path / "images.npy"))

    def call(*arguments):
        out = tmp_path / "small.safetensors"
        factory = ("--factory", "helpers.digits:DigitNet", "--out", str(out))
        return *run(monkeypatch, capsys, "compress", *factory, *files, *arguments), out

    return call


def test_a_drop_and_a_table_of_what_changed(command, tmp_path):
    code, out, _, file = command("--max-drop", "10%", "--max-images", "64", "--run", str(tmp_path / "run"))
    assert code == 0
    assert "max_drop 0.1" in out
    rows = [line.split() for line in out[out.index("before") :].splitlines()]
    assert rows[0] == ["before", "after", "change"]
    assert [row[0] for row in rows[1:5]] == ["agreement", "parameters", "FLOPs", "file"]
    assert [row[-1] for row in rows[1:5]] == ["points", "fewer", "fewer", "smaller"]
    student = ghostify.load(file, digit_net())
    agreement = ghostify.evaluate(student, IMAGES, teacher=digit_net()).agreement
    assert 0.9 < agreement < 1
    assert (tmp_path / "run" / "probe-1.json").exists()


def test_labels_from_a_file_judge(command, tmp_path):
    np.savez(tmp_path / "val.npz", images=IMAGES[600:1200].numpy(), labels=LABELS[600:1200].numpy())
    code, out, _, _ = command("--target", "flops=0.7", "--val", str(tmp_path / "val.npz"))
    assert code == 0
    assert "top-1" in out[out.index("before") :]


def test_json_and_a_plot(command, tmp_path):
    figure = tmp_path / "shares.png"
    code, out, _, file = command("--target", "flops=0.6", "--json", "--plot", str(figure), "--set", "conv2=dense")
    assert code == 0
    report = json.loads(out)
    assert report["student"]["flops"] <= 0.6 * report["original"]["flops"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert ghostify.load(file, digit_net()).conv2.out_channels == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give target={'flops': 0.5} or max_drop=0.01: neither was given"),
        (("--max-drop", "a point"), "--max-drop 'a point' is not of the form 1% or 0.01"),
        (("--max-drop", "1%x"), "--max-drop '1%x' is not of the form"),
        (("--target", "latency=0.6"), "target latency needs runtime="),
    ],
)
def test_what_it_cannot_do(command, arguments, message):
    code, _, said, file = command(*arguments)
    assert code == 2
    assert message in " ".join(said.split())
    assert not file.exists()
