import pytest
import torch
from helpers.segmenters import CLASSES, IMAGES, LABELS, segmenter
from torch import nn

import ghostify
from ghostify.losses import main_output


@pytest.mark.parametrize("kind", ["lraspp", "fcn", "deeplab"])
def test_a_segmenter_all_the_way(kind, tmp_path):
    teacher = segmenter(kind)
    ghostify.reestimate_norms(teacher, IMAGES)
    student = ghostify.convert(teacher, 2)
    with torch.no_grad():
        assert set(student(IMAGES)) == set(teacher(IMAGES))
    report = ghostify.calibrate(student, teacher, IMAGES, method="least_squares")
    assert report.to_frame()["after"].mean() < report.to_frame()["before"].mean()
    recipe = ghostify.Recipe(steps=12, lr=0.003, optimizer="adamw", labels=1.0, batch_size=4, augment="none")
    told = ghostify.distill(student, teacher, (IMAGES, LABELS), val=(IMAGES, LABELS), recipe=recipe)
    assert list(told.epochs[0].scores) == ["mean_iou", "top1", "agreement"]
    ghostify.save(student, tmp_path / "s.safetensors")
    again = ghostify.load(tmp_path / "s.safetensors", lambda: segmenter(kind)).eval()
    with torch.no_grad():
        assert torch.equal(student.eval()(IMAGES)["out"], again(IMAGES)["out"])


def test_the_auxiliary_head_learns_too():
    with torch.no_grad():
        assert len(main_output(segmenter("fcn")(IMAGES))) == 2
        assert len(main_output(segmenter("lraspp")(IMAGES))) == 1
    teacher = segmenter("fcn")
    ghostify.reestimate_norms(teacher, IMAGES)
    student = ghostify.convert(teacher, 2)
    before = student.aux_classifier[-1].weight.clone()
    ghostify.distill(student, teacher, IMAGES, recipe=ghostify.Recipe(steps=1, batch_size=4, features=0))
    assert not torch.equal(student.aux_classifier[-1].weight, before)


def test_mean_iou_is_that_of_counting():
    class Given(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("dummy", torch.zeros(()))

        def forward(self, x):
            return x

    scores = torch.randn(5, CLASSES, 8, 9, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES - 1, (5, 8, 9), generator=torch.Generator().manual_seed(2))  # the last is only predicted
    labels[:, 0] = 255
    found = ghostify.evaluate(Given(), [(scores[:2], labels[:2]), (scores[2:], labels[2:])])
    given, valid = scores.argmax(1), labels != 255
    shares = []
    for k in range(CLASSES):
        both = (given == k) & (labels == k)
        either = ((given == k) | (labels == k)) & valid
        shares.append(both.sum().item() / either.sum().item())
    assert found.iou_per_class == pytest.approx(shares)
    assert found.mean_iou == pytest.approx(sum(shares) / CLASSES)
    assert ghostify.evaluate(Given(), (scores[:, :, :1, :1], labels[:, 1, 0])).mean_iou is None


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (LABELS[:, ::2, ::2], "labels of 24 x 32 positions, the student scores of 48 x 64"),
        (LABELS + 1, "outside of 0 to 2, the student's classes: 3; 255 is left out"),
        (LABELS - 1, "outside of 0 to 2, the student's classes: -1; 255 is left out"),
        (LABELS[:3], "4 images and 3 labels"),
        (LABELS[:, 0, 0], r"labels of shape \(4,\), the student's scores take \(N, H, W\)"),
        (LABELS.float(), "labels of type torch.float32: give whole numbers"),
    ],
)
def test_bad_labels_get_one_sentence(labels, said):
    teacher = segmenter("lraspp")
    student = ghostify.convert(teacher, 2)
    with pytest.raises(ghostify.GhostifyError, match=said):
        ghostify.distill(student, teacher, (IMAGES, labels), recipe=ghostify.Recipe(steps=1, batch_size=4, labels=1.0))


def test_labels_that_make_no_tensor_and_batches_without_images_get_one_sentence():
    teacher = segmenter("lraspp")
    student = ghostify.convert(teacher, 2)
    recipe = ghostify.Recipe(steps=2, labels=1.0)
    for batch, said in (
        ((IMAGES, {"mask": LABELS}), "labels that make no tensor .dict.: give one, or a task="),
        ((IMAGES[:0], LABELS[:0]), "a batch without images"),
        ((IMAGES, LABELS[:, None]), r"labels of shape \(4, 1, 48, 64\), the student's scores take \(N, H, W\)"),
    ):
        with pytest.raises(ghostify.GhostifyError, match=said):
            ghostify.distill(student, teacher, [batch], recipe=recipe)
    with pytest.raises(ghostify.ArgumentError, match="mixup and cutmix mix classes"):
        ghostify.distill(student, teacher, [(IMAGES, LABELS)], recipe=ghostify.Recipe(steps=1, labels=1.0, mixup=0.2))
    for labels, said in ((LABELS - 1, "label -1, the model 3 classes"), (LABELS.float(), "labels of type torch.float32")):
        with pytest.raises(ghostify.ArgumentError, match=said):
            ghostify.evaluate(teacher, [(IMAGES, labels)])
    listed = ghostify.evaluate(teacher, [(IMAGES, list(LABELS))])
    assert listed == ghostify.evaluate(teacher, [(IMAGES, LABELS)])


def test_a_batch_with_no_position_that_counts_costs_nothing():
    teacher = segmenter("lraspp")
    student = ghostify.convert(teacher, 2)
    batches = [(IMAGES, LABELS), (IMAGES, torch.full_like(LABELS, 255))]
    told = ghostify.distill(student, teacher, batches, recipe=ghostify.Recipe(epochs=1, lr=1e-4, labels=1.0))
    assert told.steps == 2
    assert told.epochs[-1].parts["labels"] > 0


def test_a_backbone_without_a_head():
    import timm

    torch.manual_seed(0)
    teacher = timm.create_model("resnet10t", features_only=True, out_indices=(1, 2, 3)).eval()
    images = torch.rand(8, 3, 64, 64)
    ghostify.reestimate_norms(teacher, images)
    student = ghostify.convert(teacher, 2)
    before = ghostify.evaluate(student, images, teacher=teacher)
    recipe = ghostify.Recipe(steps=10, batch_size=8, lr=0.003, optimizer="adamw", augment="none", schedule="constant")
    told = ghostify.distill(student, teacher, images, val=images, recipe=recipe)
    assert set(told.epochs[-1].parts) == {"logits", "features"}
    assert ghostify.evaluate(student, images, teacher=teacher).explained > before.explained
    assert ghostify.evaluate(teacher, images, teacher=teacher).explained == 1
    with pytest.raises(ghostify.ArgumentError, match="beside its teacher"):
        ghostify.evaluate(student, images)
    with pytest.raises(ghostify.ArgumentError, match="has no classes"):
        ghostify.distill(student, teacher, images, recipe=ghostify.Recipe(steps=1, labels=1.0))
