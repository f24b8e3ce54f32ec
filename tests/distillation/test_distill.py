import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import distillation_script
from helpers.distillation_script import recover
from helpers.networks import Residual, randomize
from helpers.processes import forked
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ghostify
from ghostify import Recipe
from ghostify.common import tensors
from ghostify.distillation.feature_places import find_places
from ghostify.distillation.trainer import cpu_computes_in


@pytest.fixture
def pair():
    torch.manual_seed(0)
    teacher = randomize(Residual()).eval()
    return teacher, ghostify.convert(teacher, 2)


@pytest.fixture
def images():
    return torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _same(model, weights):
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_training_brings_the_student_nearer_to_its_teacher(pair, images):
    teacher, student = pair
    before = _weights(teacher)

    def distance():
        with torch.no_grad():
            return (student.eval()(images) - teacher(images)).square().mean().item()

    start = distance()
    told = ghostify.distill(student, teacher, images, recipe=Recipe(steps=150, batch_size=32, lr=0.02))
    assert distance() < 0.5 * start
    assert told.steps == 150
    assert told.epochs[-1].loss < told.epochs[1].loss
    assert _same(teacher, before)
    assert "150 steps" in str(told)
    assert list(told.to_frame().index) == [row.epoch for row in told.epochs]


def test_random_states_and_modes_of_the_caller_stay(pair, images):
    teacher, student = pair
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    student.train()
    ghostify.distill(student, teacher, images, recipe=Recipe(steps=2, mixup=0.2))
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert student.training
    assert not teacher.training


def test_equal_seeds_give_equal_weights_and_others_do_not(pair, images):
    teacher, student = pair
    start = _weights(student)

    def trained(seed):
        student.load_state_dict(start)
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=3, seed=seed))
        return _weights(student)

    first = trained(0)
    assert _same(student, first)
    assert all(torch.equal(first[name], tensor) for name, tensor in trained(0).items())
    assert not all(torch.equal(first[name], tensor) for name, tensor in trained(1).items())


def test_accumulated_batches_make_the_step_of_one_large_batch(images):
    """Without norms, which see single batches."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = []
    for size, accumulate in ((32, 1), (8, 4)):
        student = ghostify.convert(teacher, 2, skip=("first",))
        loader = DataLoader(images[:64], size)
        recipe = Recipe(epochs=1, accumulate=accumulate, features=0, schedule="constant")
        ghostify.distill(student, teacher, loader, recipe=recipe)
        found.append(_weights(student))
    assert all(torch.allclose(found[0][name], tensor, atol=1e-5) for name, tensor in found[1].items())


@pytest.mark.parametrize(
    "settings",
    [
        {"ema": 0.9},
        {"labels": 1.0, "mixup": 0.2, "cutmix": 1.0},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"channels_last": True, "clip": 0.1},
        {"optimizer": "adamw", "schedule": "poly", "lr": 1e-3},
        {"relation": 1.0, "features": 0.0, "logits": 0.0},
        {"minutes": 0.01},
        {"schedule": "constant", "augment": "none"},
    ],
    ids=str,
)
def test_every_setting_trains(pair, images, settings, caplog):
    teacher, student = pair
    labels = teacher(images).argmax(1)
    before = _weights(student)
    budget = {} if "minutes" in settings else {"steps": 6}
    told = ghostify.distill(student, teacher, (images, labels), recipe=Recipe(**budget, **settings))
    assert not _same(student, before)
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())
    emulated = not cpu_computes_in(settings.get("precision", "fp32"))
    assert emulated == ("this processor has no" in caplog.text)
    assert told.epochs[-1].loss > 0
    assert set(told.epochs[-1].parts) >= {name for name in ("labels", "relation") if settings.get(name)}


def test_the_best_validated_weights_are_kept(pair, images):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, val=images, recipe=Recipe(epochs=3, lr=0.05))
    best = max(row.scores["agreement"] for row in told.epochs)
    found = ghostify.evaluate(student, images, teacher=teacher)
    assert found.agreement == best == next(row.scores["agreement"] for row in told.epochs if row.epoch == told.best)


def test_training_stops_early_without_patience(pair, images):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, val=teacher_like(images), recipe=Recipe(epochs=50, patience=2, lr=1e-6))
    assert len(told.epochs) < 50
    assert "no better validation" in told.ended


def teacher_like(images):
    """Labels that a student at rest always meets equally well."""
    return images, torch.zeros(len(images), dtype=torch.long)


def test_a_loss_that_is_not_finite_ends_at_the_last_good_state(pair, images):
    teacher, student = pair
    recipe = Recipe(steps=300, lr=1e9, batch_size=64, warmup=0.0)
    with pytest.raises(ghostify.DivergedError, match="not finite at step") as caught:
        ghostify.distill(student, teacher, images, recipe=recipe)
    assert 1 <= caught.value.step <= 300
    assert all(torch.isfinite(tensor).all() for tensor in student.state_dict().values())


# -- tasks of one's own -----------------------------------------------------------------------------------------------


def _task(losses, evaluate=lambda: None):
    class Own(ghostify.Task):
        def losses(self, student, teacher, images, targets, recipe):
            return losses(student, teacher, images)

        def evaluate(self, model, teacher, source, progress=False):
            return evaluate()

    return Own()


def _nearer(student, teacher, images):
    return {"logits": nn.functional.mse_loss(student(images), teacher(images).detach())}


def test_a_task_of_ones_own_is_learned(pair, images):
    teacher, student = pair

    def distance():
        with torch.no_grad():
            return float(_nearer(student.eval(), teacher, images)["logits"])

    before = distance()
    told = ghostify.distill(student, teacher, images, task=_task(_nearer), recipe=Recipe(steps=40, batch_size=32, lr=0.01))
    assert set(told.epochs[-1].parts) == {"logits", "features"}
    assert distance() < 0.7 * before


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            lambda s, t, x: {"heat": s(x).mean() + 0 * t(x).mean()},
            "dict of some of labels, logits, relation, not heat",
        ),
        (lambda s, t, x: s(x).mean() + 0 * t(x).mean(), "dict of some of labels, logits, relation, not Tensor"),
        (lambda s, t, x: {"logits": x.mean()}, "runs student and teacher once each.* set features to 0"),
        (lambda s, t, x: {"logits": s(x).mean() + s(x).mean()}, "runs student and teacher once each.* set features to 0"),
    ],
)
def test_losses_that_do_not_fit_get_one_sentence(pair, images, losses, said):
    teacher, student = pair
    before = _weights(student)
    with pytest.raises(ghostify.ArgumentError, match=said):
        ghostify.distill(student, teacher, images, task=_task(losses), recipe=Recipe(steps=1))
    assert _same(student, before)


def test_a_judgement_without_scores_gets_one_sentence(pair, images):
    teacher, student = pair
    task = _task(_nearer, lambda: {"error": 1.0})
    with pytest.raises(ghostify.ArgumentTypeError, match=r"must return something with scores\(\), not dict"):
        ghostify.distill(student, teacher, images, val=images, task=task, recipe=Recipe(steps=1))


# -- resuming ---------------------------------------------------------------------------------------------------------


def _recovered(folder, dies_at=0):
    """How a process ended that kills itself at some image, if it is told to."""
    process = forked(recover, folder, dies_at)
    process.join(timeout=300)
    return process.exitcode


def test_ten_kills_at_random_points_end_in_the_weights_of_a_run_without_any(tmp_path):
    rng = random.Random(0)
    assert _recovered(tmp_path / "whole") == 0
    for _ in range(10):
        assert _recovered(tmp_path / "broken", rng.randrange(20, 150)) == -signal.SIGKILL
    assert _recovered(tmp_path / "broken") == 0
    whole, broken = (torch.load(tmp_path / name / "weights.pt") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    whole, broken = (
        [line.split(",")[:5] for line in (tmp_path / name / "history.csv").read_text().splitlines()]
        for name in ("whole", "broken")
    )
    assert whole == broken


def test_two_processes_do_what_one_does(tmp_path):
    facts = []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for number in (1, 2):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
        command = [*launcher, distillation_script.__file__, tmp_path / "facts.json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        facts.append(json.loads((tmp_path / "facts.json").read_text()))
    one, two = facts
    assert (one["processes"], two["processes"]) == (1, 2)
    assert np.abs(np.array(one["losses"]) - np.array(two["losses"])).max() < 1e-4
    assert np.abs(np.array(one["weights"]) - np.array(two["weights"])).max() < 1e-4
    assert (one["images"], one["top1"]) == (two["images"], two["top1"])
    assert one["images"] == 67


def test_a_finished_run_is_not_run_again(pair, images, tmp_path):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, recipe=Recipe(steps=3), out=tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {"checkpoint.safetensors", "student.safetensors", "history.csv", "curve.png", "recipe.yaml"}
    weights = _weights(student)
    fresh = ghostify.convert(teacher, 2)
    again = ghostify.distill(fresh, teacher, images, recipe=Recipe(steps=3), out=tmp_path, resume=True)
    assert again == told
    assert _same(fresh, weights)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "text", "other kind", "recipe", "data", "student", "teacher", "val"])
def test_a_checkpoint_that_does_not_fit_is_refused(pair, images, tmp_path, harm):
    teacher, student = pair
    recipe = Recipe(steps=3)
    ghostify.distill(student, teacher, images, recipe=recipe, out=tmp_path)
    before = _weights(student)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    match = "can't be read"
    if harm == "truncated":
        path.write_bytes(whole[:-100])
    elif harm == "flipped":
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
        match = "corrupt"
    elif harm == "text":
        path.write_text("no checkpoint")
    elif harm == "other kind":
        path.write_bytes((tmp_path / "student.safetensors").read_bytes())
        match = "no checkpoint of a run"
    elif harm == "recipe":
        recipe, match = Recipe(steps=3, lr=0.3), "lr was 0.02, not 0.3"
    elif harm == "data":
        images, match = images[:128], "other data"
    elif harm == "teacher":
        teacher, match = randomize(Residual()).eval(), "another teacher"
    elif harm == "val":
        match = "had no val"
    else:
        student, match = ghostify.convert(teacher, 4), "another student"
        before = _weights(student)
    val = images if harm == "val" else None
    with pytest.raises(ghostify.ArgumentError, match=match):
        ghostify.distill(student, teacher, images, val=val, recipe=recipe, out=tmp_path, resume=True)
    assert _same(student, before)


def test_the_last_image_of_an_odd_batch_is_not_mixed(pair, images):
    teacher, student = pair
    batches = [images[:32], images[32:65], images[65:66]]
    told = ghostify.distill(student, teacher, batches, recipe=Recipe(epochs=1, mixup=0.2, lr=0.01))
    assert told.epochs[-1].step == 3


def test_a_run_is_not_overwritten(pair, images, tmp_path):
    teacher, student = pair
    ghostify.distill(student, teacher, images, recipe=Recipe(steps=1), out=tmp_path)
    with pytest.raises(ghostify.ArgumentError, match="resume=True goes on"):
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=1), out=tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(pair, images, tmp_path, monkeypatch):
    teacher, student = pair
    recipe = Recipe(epochs=2)
    loader = DataLoader(images, 64)
    real, calls = tensors.save_file, []

    def full(tensors, name, metadata):
        calls.append(name)
        if len(calls) > 2:
            Path(name).write_bytes(b"a part")
            raise OSError(28, "No space left on device")
        real(tensors, name, metadata)

    monkeypatch.setattr(tensors, "save_file", full)
    before = _weights(student)
    with pytest.raises(ghostify.GhostifyError, match=r"No space left.*before it is whole"):
        ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path)
    assert _same(student, before)
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path, resume=True)
    assert not _same(student, before)


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(6):
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / kind / f"{number}.jpg")
    return tmp_path


@pytest.fixture
def torchvision_pair():
    import torchvision

    torch.manual_seed(0)
    teacher = torchvision.models.mobilenet_v3_small(num_classes=2).eval()
    return teacher, ghostify.convert(teacher, 2)


def test_broken_pictures_are_left_out_and_counted(torchvision_pair, pictures):
    teacher, student = torchvision_pair
    (pictures / "cat" / "2.jpg").write_bytes(b"no picture")
    (pictures / "dog" / "3.jpg").write_bytes((pictures / "dog" / "3.jpg").read_bytes()[:200])
    recipe = Recipe(steps=4, batch_size=4, lr=1e-3, features=0)
    told = ghostify.distill(student, teacher, str(pictures), recipe=recipe, workers=0)
    assert told.broken == 2
    assert "2 pictures could not be read" in str(told)
    with pytest.raises(ghostify.ArgumentError, match=r"\.jpg.* can't be read"):
        ghostify.distill(student, teacher, str(pictures), recipe=recipe, workers=0, broken="fail")
    with pytest.raises(ghostify.ArgumentError, match=r"\.jpg.* can't be read"):
        ghostify.evaluate(student, str(pictures), workers=0)


def test_a_folder_of_pictures_is_read_by_processes(torchvision_pair, pictures):
    teacher, student = torchvision_pair
    (pictures / "cat" / "2.jpg").write_bytes(b"no picture")
    told = ghostify.distill(
        student, teacher, pictures, recipe=Recipe(epochs=2, batch_size=4, lr=1e-3, labels=1.0, features=0), workers=2
    )
    assert told.broken == 1
    assert told.epochs[-1].parts["labels"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": []}, "empty"),
        ({"train": DataLoader(TensorDataset(torch.zeros(3, 3, 8, 8)), 8, drop_last=True)}, "empty"),
        ({"train": "nowhere"}, "neither a folder"),
        ({"train": 7}, "must be a loader"),
        ({"train": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"train": torch.full((4, 3, 8, 8), float("nan"))}, "NaN"),
        ({"train": torch.zeros(4, 5, 8, 8)}, "do not fit Residual"),
        ({"recipe": Recipe(steps=2, labels=1.0)}, "train has none"),
        ({"train": (torch.zeros(4, 3, 8, 8), torch.zeros(4, 10))}, r"labels of shape \(4, 10\)"),
        ({"train": (torch.zeros(4, 3, 8, 8), list("abcd"))}, "no numbers"),
        ({"val": torch.zeros(4, 5, 8, 8)}, "do not fit Residual"),
        ({"val": (torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 10]))}, "val has label 10"),
        ({"val": iter([torch.zeros(4, 3, 8, 8)])}, "val is a generator"),
        ({"recipe": "short"}, "must be a ghostify.Recipe"),
        ({"resume": True}, "needs out="),
        ({"broken": "ignore"}, "broken must be one of"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds"),
    ],
)
def test_bad_input_gets_one_sentence_and_changes_nothing(pair, images, change, said):
    teacher, student = pair
    before = _weights(student)
    arguments = {"train": images, "recipe": Recipe(steps=2)} | change
    with pytest.raises(ghostify.GhostifyError, match=said) as caught:
        ghostify.distill(student, teacher, **arguments)
    assert "\n" not in str(caught.value)
    assert _same(student, before)


def test_a_generator_is_told_from_a_loader(pair, images):
    teacher, student = pair
    with pytest.raises(ghostify.ArgumentError, match="is a generator"):
        ghostify.distill(student, teacher, (images[i : i + 8] for i in range(0, 32, 8)), recipe=Recipe(epochs=2))


class _Batches:
    def __iter__(self):
        return iter([[0, 1, 2, 3], [4, 5, 6, 7]])


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.zeros(16, 3, 8, 8))


@pytest.mark.parametrize("form", ["dataset", "stream", "stream in a loader", "own batches", "no labels", "file"])
def test_odd_forms_of_data_train(pair, images, form, tmp_path):
    teacher, student = pair
    np.save(tmp_path / "images.npy", images.numpy())
    train = {
        "dataset": TensorDataset(images),
        "stream": _Stream(),
        "stream in a loader": DataLoader(_Stream(), 4),
        "own batches": DataLoader(images, batch_sampler=_Batches()),
        "no labels": (images, None),
        "file": tmp_path / "images.npy",
    }[form]
    before = _weights(student)
    told = ghostify.distill(student, teacher, train, recipe=Recipe(steps=3))
    assert told.steps == 3
    assert not _same(student, before)


def test_an_epoch_of_a_budget_of_epochs_is_one_pass(pair, images):
    teacher, student = pair
    told = ghostify.distill(student, teacher, images, recipe=Recipe(epochs=2, batch_size=64))
    assert [row.step for row in told.epochs] == [0, 4, 8]


def test_labels_beyond_the_classes_are_named(pair, images):
    teacher, student = pair
    labels = torch.full((len(images),), 10)
    with pytest.raises(ghostify.ArgumentError, match="outside of 0 to 9"):
        ghostify.distill(student, teacher, (images, labels), recipe=Recipe(steps=2, labels=1.0))


def test_a_teacher_of_other_classes_is_refused(pair, images):
    teacher, student = pair
    teacher.head = nn.Linear(16, 7)
    with pytest.raises(ghostify.ArgumentError, match=r"differ in their outputs: \(10,\) against \(7,\)"):
        ghostify.distill(student, teacher, images, recipe=Recipe(steps=2))


def test_an_interruption_leaves_the_student_and_a_checkpoint(pair, images, tmp_path):
    teacher, student = pair
    before = _weights(student)

    class Stops(TensorDataset):
        def __getitem__(self, index):
            seen.append(index)
            if len(seen) == 150:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    seen: list[int] = []
    loader, recipe = DataLoader(Stops(images[:100]), 10), Recipe(epochs=5)
    with pytest.raises(KeyboardInterrupt):
        ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path, checkpoint_seconds=0)
    assert _same(student, before)
    told = ghostify.distill(student, teacher, loader, recipe=recipe, out=tmp_path, resume=True)
    assert told.epochs[-1].epoch == 5


# -- features ---------------------------------------------------------------------------------------------------------


def test_maps_are_compared_after_blocks_or_sites(pair):
    import torchvision

    teacher, student = pair
    x = torch.randn(2, 3, 8, 8)
    assert find_places(student, teacher, lambda model: model(x)) == ["bn1", "bn2"]
    teacher = torchvision.models.resnet18().eval()
    student = ghostify.convert(teacher, 2)
    x = torch.randn(2, 3, 64, 64)
    expected = [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert find_places(student, teacher, lambda model: model(x)) == expected


def test_another_network_of_the_same_outputs_is_trained_without_features(pair, images):
    teacher, _ = pair
    student = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    told = ghostify.distill(student, teacher, images, recipe=Recipe(steps=2))
    assert "no features were matched" in told.summary()
    assert set(told.epochs[-1].parts) == {"logits"}
