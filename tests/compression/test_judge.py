"""How students are judged that are no classifiers: group by group, by their task."""

import pytest
import torch
from helpers.segmenters import IMAGES, LABELS
from torch import nn

import ghostify
from ghostify.compression.judge import GroupJudge, make_judge
from ghostify.losses import main_output
from ghostify.tasks.kinds import task_for

BATCHES = [(image[None, :, k::6], label[None, k::6]) for image, label in zip(IMAGES, LABELS, strict=True) for k in range(6)]


def colours(bias):
    """Scores by how strong a colour is; the first class gets so much on top."""
    model = nn.Conv2d(3, 3, 1)
    model.weight.data, model.bias.data = torch.eye(3)[:, :, None, None], torch.tensor([bias, 0.0, 0.0])
    return model.eval()


def judge_of(original, items):
    return make_judge(original, items, task_for(original, main_output, None))


def test_segmentation_is_judged_by_mean_iou():
    original, student = colours(0.02), colours(0.2)
    judge = judge_of(original, BATCHES)
    found = judge.judge(student, 0.05)
    before, after = (ghostify.evaluate(model, BATCHES).mean_iou for model in (original, student))
    assert (judge.measure, judge.images) == ("mean_iou", 24)
    assert (found.original, found.student, found.drop) == pytest.approx((before, after, before - after))
    assert found.drop < found.most < found.drop + 0.05
    assert judge.judge(student, 0.001).most > found.most
    assert judge.judge(original, 0.05).most == 0


def test_segmentation_without_labels_is_judged_by_agreement():
    judge = judge_of(colours(0.0), [image for image, _ in BATCHES])
    assert (judge.measure, judge.baseline) == ("agreement", 1)
    assert 0.05 < judge.judge(colours(0.2), 0.05).drop < 0.5


def test_a_task_of_ones_own_judges():
    class Brightness(ghostify.Task):
        def evaluate(self, model, teacher, source, progress=False):
            class Found:
                def scores(self):
                    return {
                        "brightness": sum(float(model(images).detach().mean()) for images, _ in source.batches) / len(source)
                    }

            return Found()

    judge = make_judge(colours(0.3), BATCHES, Brightness())
    assert isinstance(judge, GroupJudge)
    assert judge.measure == "brightness"
    assert judge.judge(colours(0.0), 0.05).drop == pytest.approx(0.1, abs=1e-5)


def test_what_cannot_judge():
    with pytest.raises(ghostify.ArgumentError, match=r"^5 batches of images judge, too few"):
        judge_of(colours(0.0), BATCHES[:5])
    with pytest.raises(ghostify.ArgumentError, match=r"original's mean_iou is 0.00%: are they those of"):
        judge_of(colours(9.0), [(image, torch.full_like(label, 2)) for image, label in BATCHES])
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    with pytest.raises(ghostify.ArgumentError, match="batches with labels and batches without"):
        judge_of(net, [(IMAGES, torch.zeros(4, dtype=torch.long)), IMAGES])
