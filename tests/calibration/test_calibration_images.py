"""Every form of images that calibrate() takes."""

import numpy as np
import pytest
import torch
from helpers.calibration import TEACHER, X, images, trained, wide
from helpers.networks import Residual
from torch import nn

import ghostify
from ghostify.common.spill import SpilledList


def test_every_form_of_images_gives_the_same(tmp_path):
    teacher, x = trained(Residual()), images(40)
    np.save(tmp_path / "few.npy", x.numpy())
    labelled = torch.utils.data.TensorDataset(x, torch.zeros(40))
    forms = [
        x, x.numpy(), torch.utils.data.DataLoader(labelled, 8), list(x.split(8)), ({"image": b} for b in x.split(8)),
        tmp_path / "few.npy", str(tmp_path / "few.npy"), torch.cat([x, x]),
    ]  # fmt: skip
    outputs = []
    for form in forms:
        student = ghostify.convert(teacher, 2)
        report = ghostify.calibrate(student, teacher, form, method="least_squares", max_images=40, batch_size=8)
        assert report.images == 40
        outputs.append(student(x[:4]))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0])


def test_a_folder_of_pictures(tmp_path):
    import torchvision
    from PIL import Image

    torch.manual_seed(0)
    for index in range(6):
        Image.fromarray((torch.rand(40, 50, 3).numpy() * 255).astype("uint8")).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    teacher = torchvision.models.squeezenet1_1().eval()
    student = ghostify.convert(teacher, 2)
    report = ghostify.calibrate(student, teacher, tmp_path, method="least_squares", max_images=4)
    assert report.images == 4
    assert report.after < report.before
    (tmp_path / "7.png").write_text("no picture either")
    with pytest.raises(ghostify.ArgumentError, match=r"no picture: 7\.png"):
        ghostify.calibrate(student, teacher, tmp_path, method="least_squares")


def test_maps_on_disk_give_the_same_and_are_cleared_away(tmp_path, monkeypatch):
    import tempfile

    teacher, outputs = trained(Residual()), []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    for memory in (1 << 30, 0):
        monkeypatch.setattr("ghostify.calibration.calibrate.MEMORY", memory)
        monkeypatch.setattr(
            SpilledList, "close", (lambda old: lambda self: (seen.append(self.folder), old(self)))(SpilledList.close)
        )
        student = ghostify.convert(teacher, 2)
        ghostify.calibrate(student, teacher, images(), steps=20)
        outputs.append(student(images(4)))
        monkeypatch.undo()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert any(seen)
    assert torch.equal(*outputs)
    assert not list(tmp_path.iterdir())


def test_single_images_to_a_network_without_norms():
    teacher = nn.Sequential(wide(3, 24), nn.ReLU(), wide(24, 24))
    student = ghostify.convert(teacher, 2, skip=("first",))
    with pytest.raises(ghostify.ArgumentError, match="single images"):
        ghostify.calibrate(student, teacher, list(X))


def test_odd_images_are_used_and_named():
    student = ghostify.convert(TEACHER, 2)
    report = ghostify.calibrate(student, TEACHER, X[:1], method="least_squares")
    assert "only 1 image" in report.summary()
    assert all(torch.isfinite(value).all() for value in student.state_dict().values() if value.is_floating_point())
    with pytest.warns(UserWarning, match="preprocessing") as warned:
        report = ghostify.calibrate(ghostify.convert(TEACHER, 2), TEACHER, X * 5, method="least_squares")
    assert "preprocessing" in str(report)
    assert warned[0].filename == __file__


def test_no_more_batches_are_read_than_needed():
    given = []

    def batches():
        for k in range(9):
            given.append(k)
            yield X

    ghostify.calibrate(ghostify.convert(TEACHER, 2), TEACHER, batches(), max_images=np.int64(12), method="least_squares")
    assert given == [0, 1]
