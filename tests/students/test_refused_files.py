"""Files that are damaged, lie, or are something else are refused in one sentence."""

import json
import pickle
import random
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from helpers.networks import Residual
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import ghostify
from ghostify.common.tensors import checksum_of_state
from ghostify.students.header import KEY


@pytest.fixture
def file(tmp_path, teacher):
    ghostify.save(ghostify.convert(teacher, 2, linear_ratio=2), tmp_path / "s.safetensors")
    return tmp_path / "s.safetensors"


def refused(path, factory=Residual):
    with pytest.raises(ghostify.ArgumentError) as error:
        ghostify.load(path, factory)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_hundred_flipped_bits_and_a_hundred_truncations_are_noticed(file):
    whole = file.read_bytes()
    chance = random.Random(0)
    damaged = file.with_name("damaged.safetensors")
    for _ in range(100):
        at, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        refused(damaged)
    for _ in range(100):
        damaged.write_bytes(whole[: chance.randrange(len(whole))])
        refused(damaged)


def rewritten(path, change):
    """The file with another header; its checksum is made to fit."""
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()[KEY])
    tensors = load_file(path)
    del told["checksum"]
    change(told)
    told["checksum"] = checksum_of_state(tensors, told)
    save_file(tensors, path, {"format": "pt", KEY: json.dumps(told)})
    return path


def site(told, **fields):
    next(r for r in told["recipe"]["sites"] if r["name"] == "conv1").update(fields)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda told: told["recipe"].update(format=99), "format 99.*newer"),
        (lambda told: told["recipe"].update(format="x"), "damaged"),
        (lambda told: told["recipe"].pop("sites"), "damaged"),
        (lambda told: told["recipe"]["sites"].append(told["recipe"]["sites"][0]), "damaged"),
        (lambda told: told.update(recipe=None), "damaged"),
        (lambda told: told.pop("class"), "damaged"),
        (lambda told: site(told, intrinsic=12), "another network.*conv1"),
        (lambda told: site(told, intrinsic=10**12), "damaged.*conv1"),
        (lambda told: site(told, intrinsic="8"), "damaged.*conv1"),
        (lambda told: site(told, dw_size=10**9 + 1), "damaged.*conv1"),
        (lambda told: site(told, cheap="os.system"), "damaged.*conv1"),
        (lambda told: site(told, out_channels=32), "another network: 'conv1' has .*32"),
        (lambda told: site(told, name="conv9"), "no layer 'conv9'"),
        (lambda told: site(told, kind="linear"), "'conv1' is a Conv2d"),
        (lambda told: site(told, norm="head"), "'head' is a Linear"),
        (lambda told: site(told, act=None, shared_act=None, function={"class": "system"}), "no activation"),
        (lambda told: site(told, reason="not converted", ratio=None), "another network"),
    ],
)
def test_headers_that_lie_are_refused(file, change, match):
    assert re.search(match, refused(rewritten(file, change)))


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "timm/resnet18", "settings": {"checkpoint_path": "/etc/passwd"}},
        {"name": "hf-hub:someone/evil", "settings": {}},
        {"name": "timm/resnet18", "settings": {"num_classes": 10**13}},
        {"name": ["timm/resnet18"], "settings": {}},
        {"settings": {}},
        "timm/resnet18",
    ],
)
def test_architectures_that_lie_are_refused(tmp_path, architecture):
    ghostify.save(ghostify.convert(timm.create_model("resnet18")), tmp_path / "s.safetensors")
    refused(rewritten(tmp_path / "s.safetensors", lambda told: told.update(architecture=architecture)), None)


def test_other_files_are_refused(tmp_path, file, teacher):
    (tmp_path / "p.safetensors").write_bytes(pickle.dumps({"weight": [1.0] * 100}))
    assert "no safetensors file" in refused(tmp_path / "p.safetensors")
    torch.save(teacher.state_dict(), tmp_path / "t.safetensors")
    assert "no safetensors file" in refused(tmp_path / "t.safetensors")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10_000_000_000]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tmp_path / "b.safetensors")
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", 10_000_000_000) + b"{}")
    refused(tmp_path / "h.safetensors")
    assert "does not exist" in refused(tmp_path / "none.safetensors")

    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors")
    assert "no recipe" in refused(tmp_path / "w.safetensors")
    assert "another network" in refused(file, lambda: Residual(24))
    assert "no layer" in refused(file, lambda: nn.Sequential(nn.Conv2d(3, 16, 3)))


def test_indices_that_lead_out_of_the_maps_are_refused(file):
    from safetensors.torch import load_file

    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()[KEY])
    del told["checksum"]
    names = [name for name in tensors if name.endswith("channel_order")]
    assert names
    for change, match in ((lambda index: index + 5, "no permutation"), (torch.Tensor.float, "no whole numbers")):
        bad = {**tensors, names[0]: change(tensors[names[0]])}
        save_file(bad, file, {"format": "pt", KEY: json.dumps({**told, "checksum": checksum_of_state(bad, told)})})
        assert match in refused(file)


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import ghostify
from helpers.networks import Residual
student = ghostify.convert(Residual(64), 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
try:
    ghostify.save(student, sys.argv[2])
except ghostify.ArgumentError as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_the_file_that_was_there(file):
    before = file.read_bytes()
    told = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(Path(__file__).parents[1]), str(file)], capture_output=True, text=True, check=True
    )
    assert "can't be written" in told.stdout
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
