"""Grids, folders and data that a sweep refuses."""

import pytest
import torch
from helpers.networks import Residual
from helpers.sweeps import sweep_of

import ghostify
from ghostify.exploration.sweep_result import SweepResult

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
    "drop": ({"max_drop": [0]}, "max_drop must be above 0"),
    "drop and ratio": ({"max_drop": [0.01], "ratio": [2]}, "a trial with max_drop has no ratio"),
    "drop and target": ({"max_drop": [0.01], "target": [{"flops": 0.5}]}, "max_drop=0.01: not both"),
    "drop of Ghost modules": ({"max_drop": [0.01], "cheap": ["auto"]}, "max_drop has cheap='absorbed', not 'auto'"),
    "drop without calibration": ({"max_drop": [0.01], "method": ["none"]}, "method must be one of 'least_squares', 'block'"),
    "runtime": ({"runtime": ["tpu"]}, "runtime must be one of 'eager'"),
    "object": ({"ratio": [torch.nn.ReLU()]}, "grid must hold numbers, words and mappings"),
    "model": ({"model": ["other"], "ratio": [2]}, r"grid\['model'\] must be one of 'Residual', not 'other'"),
    "string": ("ratio", "grid must map settings"),
}


@pytest.mark.parametrize("name", GRIDS)
def test_bad_grids_run_nothing(parts, tmp_path, name):
    grid, message = GRIDS[name]
    with pytest.raises(ghostify.GhostifyError, match=message):
        sweep_of(parts, tmp_path / "out", grid)
    assert not (tmp_path / "out").exists()


def test_bad_folders_and_data(parts, done, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(ghostify.ArgumentError, match="is not a folder of a sweep"):
            sweep_of(parts, out)
    for change, what in (({"images": parts["images"] + 1}, "images"), ({"model": Residual(16)}, "models")):
        with pytest.raises(ghostify.ArgumentError, match=f"holds another sweep, with other {what}"):
            sweep_of({**parts, **change}, done[0])
    with pytest.raises(ghostify.ArgumentError, match=r"is no folder of a sweep: it has no sweep.json"):
        SweepResult.load(tmp_path)
    with pytest.raises(ghostify.ArgumentTypeError, match="images must be data that can be read again and again"):
        sweep_of({**parts, "images": iter([parts["images"]])}, tmp_path / "new")
    with pytest.raises(ghostify.ArgumentTypeError, match="model must be a"):
        sweep_of({**parts, "model": 3}, tmp_path / "new")
    with pytest.raises(ghostify.ArgumentError, match="engine must be one of"):
        sweep_of(parts, tmp_path / "new", engine="spark")
    with pytest.raises(ghostify.ArgumentError, match="resources goes with engine='ray'"):
        sweep_of(parts, tmp_path / "new", resources={"num_gpus": 1})
    with pytest.raises(ghostify.ArgumentError, match="model is an empty mapping"):
        sweep_of({**parts, "model": {}}, tmp_path / "new")
    with pytest.raises(ghostify.ArgumentError, match=r"no Ray cluster answers at 127.0.0.1:9 within 5 s"):
        sweep_of(parts, tmp_path / "new", engine="ray", address="127.0.0.1:9")
    with pytest.raises(ghostify.ArgumentError, match="not of the form host:port"):
        sweep_of(parts, tmp_path / "new", engine="ray", address="somewhere")


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
        sweep_of({**parts, **change}, tmp_path / "out", {"ratio": [2], "method": ["none"]})
    assert not list((tmp_path / "out").iterdir())
    assert len(sweep_of(parts, tmp_path / "out", {"ratio": [2], "method": ["none"]}).results) == 2
