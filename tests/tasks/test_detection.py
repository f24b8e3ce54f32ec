import copy

import pytest
import torch
from helpers.scenes import CLASSES, KINDS, batch, detector, scene

import ghostify
from ghostify.tasks.detection import Detection
from ghostify.tasks.detection_precision import DetectionMatches
from ghostify.tasks.detection_targets import checked_targets

IMAGES, TARGETS = batch(0)


@pytest.fixture(scope="module")
def pairs():
    """A teacher and its calibrated student, made once for each kind."""
    made = {}

    def pair(kind):
        if kind not in made:
            teacher = detector(kind)
            ghostify.reestimate_norms(teacher, [IMAGES, batch(1)[0]])
            student = ghostify.convert(teacher, 2)
            report = ghostify.calibrate(student, teacher, [IMAGES, batch(1)[0]], method="least_squares")
            made[kind] = teacher, student, report
        return made[kind]

    return pair


def loss(student, teacher, recipe, targets):
    """The weighted sum for the first batch, by the same random choices each time."""
    torch.manual_seed(0)
    with torch.no_grad():
        found = Detection().losses(student.train(), teacher, IMAGES, targets, recipe)
    student.eval()
    return sum(float(getattr(recipe, name) * value) for name, value in found.items())


@pytest.mark.parametrize("kind", KINDS)
def test_interfaces_stay_and_calibration_comes_nearer(pairs, kind):
    teacher, student, report = pairs(kind)
    assert report.to_frame()["after"].mean() < report.to_frame()["before"].mean()
    found, theirs = student(IMAGES), teacher(IMAGES)
    assert [set(one) for one in found] == [set(one) for one in theirs]
    losses = ghostify.convert(teacher, 2).train()(IMAGES, TARGETS)
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("labels", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_distillation_lowers_the_losses(pairs, kind, labels, tmp_path):
    teacher = pairs(kind)[0]
    student = ghostify.convert(teacher, 2)
    recipe = ghostify.Recipe(steps=12, lr=0.003, optimizer="adamw", labels=labels, features=1.0, schedule="constant")
    targets = TARGETS if labels else None
    before = loss(student, teacher, recipe, targets)
    told = ghostify.distill(student, teacher, [(IMAGES, TARGETS)], recipe=recipe)
    assert set(told.epochs[-1].parts) == {"logits", "features"} | ({"labels"} if labels else set())
    assert not told.notes
    assert loss(student, teacher, recipe, targets) < before


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_comes_back_from_its_file(pairs, kind, tmp_path):
    student = pairs(kind)[1]
    ghostify.save(student, tmp_path / "s.safetensors")
    again = ghostify.load(tmp_path / "s.safetensors", lambda: detector(kind)).eval()
    for mine, theirs in zip(student(IMAGES), again(IMAGES), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_has_nothing_to_learn_from_itself(pairs, kind):
    teacher = pairs(kind)[0]
    recipe = ghostify.Recipe(steps=1)
    found = Detection().losses(teacher, teacher, IMAGES, None, recipe)
    assert set(found) == {"logits"}
    assert found["logits"].item() == pytest.approx(0, abs=1e-5)


def test_precision_is_that_of_boxes_found():
    model = detector("faster")
    matches = DetectionMatches(model, "data")
    for target in TARGETS:
        one = {**target, "scores": torch.ones(len(target["labels"]))}
        first = {key: value[:1] for key, value in one.items()}
        matches.add([first], [target], [one])
    found = matches.finish()
    assert found.images == 2
    assert found.map50 == pytest.approx(found.agreement)
    assert found.map == pytest.approx(found.map50)
    assert 0.3 < found.map < 0.8  # one of two boxes
    whole = DetectionMatches(model, "data")
    whole.add([{**t, "scores": torch.ones(2)} for t in TARGETS], TARGETS)
    assert (whole.finish().map, whole.finish().agreement) == (1.0, None)
    assert set(whole.finish().per_class) == {int(label) for t in TARGETS for label in t["labels"]}


def test_masks_are_judged_too(pairs):
    found = ghostify.evaluate(pairs("mask")[0], [(IMAGES, TARGETS)])
    assert found.images == 2
    assert found.mask_map is not None
    perfect = DetectionMatches(pairs("mask")[0], "data")
    perfect.add([{**t, "masks": t["masks"][:, None].float(), "scores": torch.ones(2)} for t in TARGETS], TARGETS)
    assert perfect.finish().mask_map == 1.0


def test_a_detector_agrees_with_itself_and_is_validated_so(pairs):
    teacher, student, _ = pairs("ssd")
    teacher.score_thresh, before = 0.3, teacher.score_thresh
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ghostify.tasks.detection_precision.SURE", 0.3)
            assert ghostify.evaluate(teacher, [IMAGES], teacher=teacher).agreement == pytest.approx(1, abs=0.02)
    finally:
        teacher.score_thresh = before
    told = ghostify.distill(student, teacher, [IMAGES], val=[(IMAGES, TARGETS)], recipe=ghostify.Recipe(steps=1, lr=1e-4))
    assert "map50" in told.epochs[-1].scores


def test_images_without_objects_and_boxes_over_the_edge(pairs):
    teacher, _, _ = pairs("mask")
    image, target = scene(7)
    target["boxes"][0] = torch.tensor([-10.0, -5.0, 300.0, 40.0])
    empty = {"boxes": [], "labels": [], "masks": torch.zeros(0, 96, 112)}
    _, checked = Detection().split(([image, scene(8, objects=0)[0]], [target, empty]), teacher)
    assert checked[0]["boxes"][0].tolist() == [0, 0, 112, 40]
    assert checked[1]["boxes"].shape == (0, 4)
    student = ghostify.convert(teacher, 2)
    data = [([image, scene(8, objects=0)[0]], [target, empty])]
    told = ghostify.distill(student, teacher, data, recipe=ghostify.Recipe(steps=2, lr=1e-3, labels=1.0))
    assert told.steps == 2
    assert ghostify.evaluate(student, data).images == 2


def changed(**changes):
    return [{**TARGETS[0], **changes}, TARGETS[1]]


BAD = {
    "one target": (TARGETS[:1], "2 images and 1 targets"),
    "a tensor": ([torch.zeros(4), torch.zeros(4)], "not a Tensor"),
    "no boxes": ([{"labels": TARGETS[0]["labels"]}, TARGETS[1]], "without boxes"),
    "five numbers": (changed(boxes=torch.zeros(2, 5)), r"shape \(2, 5\)"),
    "outside": (changed(boxes=torch.tensor([[0, 0, 5, 5], [200, 0, 220, 9]])), r"\(200, 0, 220, 9\) lies outside of its image"),
    "turned": (changed(boxes=torch.tensor([[9, 0, 5, 5], [0, 0, 2, 9]])), r"\(9, 0, 5, 5\) has no width"),
    "not finite": (changed(boxes=torch.full((2, 4), float("nan"))), "not finite"),
    "words": (changed(boxes="left"), "no numbers"),
    "one label": (changed(labels=torch.tensor([1])), "2 boxes and 1 labels"),
    "class beyond": (changed(labels=torch.tensor([1, CLASSES])), f"label {CLASSES}: the model has classes 1 to {CLASSES - 1}"),
    "background": (changed(labels=torch.tensor([0, 1])), "label 0"),
    "half classes": (changed(labels=torch.tensor([0.5, 1])), "no whole numbers"),
    "small masks": (changed(masks=torch.zeros(2, 48, 56)), r"\(2, 48, 56\), not \(2, 96, 112\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_targets_get_one_sentence(case):
    targets, said = BAD[case]
    with pytest.raises(ghostify.GhostifyError, match=said) as caught:
        checked_targets(targets, IMAGES, detector("mask"), "train")
    assert "\n" not in str(caught.value)


def test_key_points_of_another_number():
    with pytest.raises(ghostify.ArgumentError, match=r"keypoints have shape \(2, 3, 3\), not \(2, 5, 3\)"):
        checked_targets(changed(keypoints=torch.zeros(2, 3, 3)), IMAGES, detector("keypoint"), "train")


def test_settings_that_do_not_fit_a_detector(pairs):
    teacher, student, _ = pairs("faster")
    state = {name: value.clone() for name, value in student.state_dict().items()}
    for recipe, data, said in (
        (ghostify.Recipe(steps=1, relation=1.0), [IMAGES], "a detector has none"),
        (ghostify.Recipe(steps=1, labels=1.0), [IMAGES], "no targets"),
        (ghostify.Recipe(steps=1, mixup=0.2), [IMAGES], "mix classes"),
    ):
        with pytest.raises(ghostify.ArgumentError, match=said):
            ghostify.distill(student, teacher, data, recipe=recipe)
    other = detector("faster")
    other.roi_heads.box_predictor = torch.nn.Identity()
    with pytest.raises(ghostify.ArgumentError, match=r"no targets"):
        ghostify.evaluate(student, [IMAGES])
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in state.items())


def test_a_teacher_of_other_classes_is_refused(pairs):
    student = pairs("retinanet")[1]
    from torchvision.models.detection.retinanet import RetinaNetHead

    other = detector("retinanet")
    other.head = RetinaNetHead(other.backbone.out_channels, 6, CLASSES + 3)
    with pytest.raises(ghostify.ArgumentError, match="differ in what their heads give"):
        ghostify.distill(student, other, [IMAGES], recipe=ghostify.Recipe(steps=1))


def test_a_teacher_whose_proposals_have_other_classes_is_refused(pairs):
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    teacher, student, _ = pairs("faster")
    other = copy.deepcopy(teacher)
    other.roi_heads.box_predictor = FastRCNNPredictor(other.roi_heads.box_predictor.cls_score.in_features, CLASSES + 3)
    with pytest.raises(ghostify.ArgumentError, match=f"differ in their classes: {CLASSES} against {CLASSES + 3}"):
        ghostify.distill(student, other, [IMAGES], recipe=ghostify.Recipe(steps=1))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((["a.jpg"], TARGETS), "tensors .C, H, W., not str"),
        (([], []), "an empty list"),
    ],
)
def test_images_that_are_none_get_one_sentence(pairs, batch, said):
    teacher, student, _ = pairs("ssd")
    with pytest.raises(ghostify.GhostifyError, match=said):
        ghostify.distill(student, teacher, [batch], recipe=ghostify.Recipe(steps=1))


def test_arrays_are_images_too(pairs):
    student = pairs("ssd")[1]
    found = ghostify.evaluate(student, [([image.numpy() for image in IMAGES], TARGETS)])
    assert found == ghostify.evaluate(student, [(IMAGES, TARGETS)])


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", pytest.param("ssd300_vgg16", marks=pytest.mark.slow)])
def test_single_shot_detectors_come_back_by_their_names(name, tmp_path):
    student = ghostify.convert(ghostify.create_model(f"torchvision/{name}"), 2)
    ghostify.save(student, tmp_path / "s.safetensors")
    again = ghostify.load(tmp_path / "s.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize("kind", ["faster", "ssd"])
def test_sensitivities_and_budgets_take_lists_of_images(pairs, kind):
    teacher = pairs(kind)[0]
    images = [scene(k, width=width)[0] for k, width in enumerate((96, 112, 128))]
    found = ghostify.sensitivity(teacher, [images], ratios=(2, 4))
    errors = found.to_frame().groupby("ratio")["error"].mean()
    assert errors[4] > errors[2] > 0
    student = ghostify.convert(teacher, target={"flops": 0.7}, sensitivity=found, cheap="auto", example_input=(images[:1],))
    report = ghostify.report(student, (images[:1],))
    assert 0.6 < report.after.flops / report.before.flops <= 0.7
    assert ghostify.report(student, (images,)).before.flops >= 3 * report.before.flops  # SSD resizes
    assert len(student(images)) == 3
