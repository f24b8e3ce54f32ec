"""Pictures become batches."""

import torch

from ghostify.inputs.images import as_calls


def test_of_a_large_folder_some_pictures_of_every_class_are_read(tmp_path):
    import timm
    from PIL import Image

    for kind in range(5):
        (tmp_path / str(kind)).mkdir()
        for number in range(8):
            Image.new("RGB", (8, 8), (50 * kind, 0, 0)).save(tmp_path / str(kind) / f"{number}.png")
    model = timm.create_model("resnet18", num_classes=2)
    calls = as_calls(tmp_path, model, 10, 4)
    reds = torch.cat([images[:, 0].mean((1, 2)) for (images,), _ in calls])
    assert len(reds) == 10
    assert len(reds.unique()) == 5
