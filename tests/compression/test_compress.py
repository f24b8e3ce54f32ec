"""compress(): what comes back keeps to its limit, and the report tells how."""

import json

import matplotlib
import pytest
import torch
from helpers.calibration import state, unchanged
from helpers.digits import digit_net, digits

import ghostify
from ghostify.common.costs import measure
from ghostify.compression.search import RISK
from ghostify.students.conversion_recipe import recipe_of

matplotlib.use("Agg")

IMAGES, LABELS = digits()
FEW, VAL = IMAGES[:64], (IMAGES[800:], LABELS[800:])


@pytest.fixture
def net():
    return digit_net()


def compressed(net, images=FEW, **limits):
    before = state(net)
    result = ghostify.compress(net, images, **limits)
    assert unchanged(net, before)
    assert not result.student.training
    assert result.student(IMAGES[:2]).shape == (2, 10)
    return result


@pytest.mark.parametrize("metric", ["flops", "params"])
def test_a_target_is_met(net, metric):
    result = compressed(net, target={metric: 0.6})
    report = result.report
    assert getattr(report.student, metric) <= 0.6 * getattr(report.original, metric)
    assert report.student.flops == measure(result.student, (IMAGES[:1],)).flops
    assert [step.step for step in report.steps] == ["one pass", "student"]
    assert (report.judging, report.measure, report.student.score) == (0, None, None)
    assert f"target {metric} 0.6" in str(report)


def test_a_target_is_that_of_convert_and_calibrate(net):
    student = ghostify.convert(net, target={"flops": 0.6}, cheap="absorbed", images=FEW, example_input=(1, 1, 8, 8))
    ghostify.calibrate(student, net, FEW, method="least_squares")
    assert torch.allclose(student(IMAGES), compressed(net, target={"flops": 0.6}).student(IMAGES), atol=1e-5)


def test_a_target_is_judged_where_there_is_val(net):
    report = compressed(net, target={"flops": 0.6}, val=VAL).report
    accuracy = ghostify.evaluate(net, VAL).top1
    assert report.original.score == pytest.approx(accuracy)
    assert report.steps[-1].drop == pytest.approx(report.original.score - report.student.score)
    assert report.steps[-1].kept is None


def test_the_drop_is_kept_within_by_the_upper_end_of_its_interval(net):
    result = compressed(net, max_drop=0.06, val=VAL)
    report = result.report
    probes = [step for step in report.steps if step.score is not None]
    within = [step for step in probes if step.drop_at_most <= 0.06]
    assert all(step.kept == (step.drop_at_most <= 0.06) for step in probes)
    assert all(step.drop < step.drop_at_most for step in probes)
    chosen = report.steps[report.chosen]
    assert chosen.flops_share == min(step.flops_share for step in within) < 0.8
    assert report.student.score == pytest.approx(ghostify.evaluate(result.student, VAL).top1)
    assert (report.measure, report.judging, report.images) == ("top1", 997, 64)
    assert "at most" in report.summary()
    assert len(probes) >= 2


def test_without_labels_held_out_images_tell_agreement(net):
    result = compressed(net, IMAGES[:800], max_drop=0.1, max_images=100, seed=3)
    report = result.report
    assert (report.measure, report.images, report.judging, report.original.score) == ("agreement", 100, 700, 1.0)
    held_out = torch.randperm(800, generator=torch.Generator().manual_seed(3))[100:]
    agreement = ghostify.evaluate(result.student, IMAGES[held_out], teacher=net).agreement
    assert report.student.score == pytest.approx(agreement)
    assert 1 - agreement <= report.steps[report.chosen].drop_at_most <= 0.1


def test_val_without_labels_tells_agreement(net):
    report = compressed(net, max_drop=0.1, val=IMAGES[800:]).report
    assert (report.measure, report.judging) == ("agreement", 997)


def test_seeds_give_the_same_student_again(net):
    students = [compressed(net, IMAGES[:300], max_drop=0.2, seed=seed, max_images=64).student for seed in (0, 0, 1)]
    outputs = [student(IMAGES[:50]) for student in students]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_images_may_come_in_batches_that_are_read_once(net):
    plain = compressed(net, target={"flops": 0.6}).student(IMAGES[:9])
    assert torch.equal(compressed(net, (part for part in FEW.split(20)), target={"flops": 0.6}).student(IMAGES[:9]), plain)


def test_ratios_keep_maps(net):
    student = compressed(net, target={"flops": 0.8}, ratios={"conv1": None}).student
    assert student.conv1.out_channels == 12
    assert student.conv2.out_channels < 12


@pytest.mark.parametrize("limit", [0.7, "0.06ms"])
def test_a_target_of_latency_is_met_by_what_is_timed(net, clock, limit):
    result = compressed(net, target={"latency": limit}, runtime="eager", batch_size=2)
    report = result.report
    total = 2e-5 + 1e-9 * 2 * report.original.flops
    wanted = 0.7 if limit == 0.7 else 6e-5 / total
    taken = 1 - 0.8 * 1e-9 * 2 * (report.original.flops - report.student.flops) / total
    assert taken <= wanted
    assert report.steps[-1].latency_share == pytest.approx(taken)
    assert report.original.latency == pytest.approx(total)
    assert 2 <= clock.count("student") <= 5
    assert "eager, batch 2" in report.summary()
    assert recipe_of(result.student).config["budget"]["metric"] == "latency"


def test_with_a_runtime_the_fastest_within_the_drop_is_taken(net, clock):
    report = compressed(net, max_drop=0.06, val=VAL, runtime="eager").report
    within = [step for step in report.steps if step.kept]
    assert report.steps[report.chosen].latency_share == min(step.latency_share for step in within)
    assert set(clock) >= {"conv1", "conv2", "head", "student"}


def test_students_are_distilled_before_they_are_judged(net):
    recipe = ghostify.Recipe.preset("short", steps=20, batch_size=32)
    plain = compressed(net, target={"flops": 0.4}, val=VAL).report
    trained = compressed(net, target={"flops": 0.4}, val=VAL, train=IMAGES[:800], recipe=recipe).report
    assert trained.student.flops == plain.student.flops
    assert trained.student.score != plain.student.score


def test_the_report_is_one_like_others(net, tmp_path):
    result = compressed(net, max_drop=0.06, val=VAL)
    frame = result.report.to_frame()
    assert len(frame) == len(result.report.steps)
    assert json.loads(result.report.to_json())["chosen"] == result.report.chosen
    assert "taken" in result.report.to_markdown()
    assert len(result.plot().get_lines()) >= 3
    assert compressed(net, target={"flops": 0.6}).plot() is not None
    result.save(tmp_path / "smaller")
    assert {path.name for path in (tmp_path / "smaller").iterdir()} == {
        "student.safetensors", "report.json", "report.md", "report.png",
    }  # fmt: skip
    loaded = ghostify.load(tmp_path / "smaller" / "student.safetensors", net)
    assert torch.equal(loaded(IMAGES), result.student(IMAGES))


def test_all_probes_together_hold_with_the_confidence():
    assert pytest.approx(0.05 / 6) == RISK
