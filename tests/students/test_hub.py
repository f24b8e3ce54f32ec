"""A folder for the hub."""

import json

import torchvision
from helpers.storage import same_student

import ghostify


def test_a_folder_goes_to_the_hub_and_back(tmp_path):
    student = ghostify.convert(torchvision.models.resnet18(num_classes=4))
    ghostify.HubStudent(student).save_pretrained(tmp_path / "hub")
    assert {path.name for path in (tmp_path / "hub").iterdir()} >= {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["architecture"]["name"] == "torchvision/resnet18"
    again = ghostify.HubStudent.from_pretrained(str(tmp_path / "hub"))
    assert same_student(student, again.student, 3, 32, 32)
    assert same_student(student, ghostify.load(tmp_path / "hub"), 3, 32, 32)
    ghostify.save(student, tmp_path / "folder")
    assert same_student(student, ghostify.load(tmp_path / "folder"), 3, 32, 32)
