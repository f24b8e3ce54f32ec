"""The networks whose accuracy is measured: calibrated students, pruned networks, and what stands between the two."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.calibration.accuracy_trials import ONE_RATIO, Trial
from benchmarks.conversion.budget import sensitivities, uniform_ratio
from benchmarks.harness.machine import seconds_of
from benchmarks.harness.networks import Networks, Split
from benchmarks.harness.pruning import informed, prune
from benchmarks.harness.pruning_choice import Choice, best_choices, best_setting
from benchmarks.harness.span_pruning import PrunedSpans, SpanPruner
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.settings import BlockSettings, ImageSettings, Settings
from ghostify.students.conversion_recipe import recipe_of
from ghostify.students.replay import replay


@dataclass(frozen=True)
class Candidate:
    """A calibrated student, or a pruned network; the seconds that it took; how it was pruned."""

    model: nn.Module
    seconds: float
    setting: str = ""


def candidate(networks: Networks, trial: Trial) -> Candidate:
    split = networks.split(trial.network, trial.seed, trial.images)
    if trial.method == "pruning":
        return pruned(networks, trial, split)
    if trial.method == "apart":
        return choice_or_refit(networks, trial, split)

    def make() -> nn.Module:
        student = converted(networks, trial, split.few)
        return calibrated(student, networks.teacher(trial.network), split.few, trial)

    if trial.share is not None and trial.arm not in ("absorbed", "best"):
        sensitivities(networks, trial.network, trial.seed, split.few, progress=True)  # kept in a file, and not counted
    return Candidate(*seconds_of(make))


def converted(networks: Networks, trial: Trial, few: Tensor) -> nn.Module:
    """The student before calibration: of a ratio, or of a share of the FLOPs."""
    teacher, init = networks.teacher(trial.network), trial.options.get("init", "warm")
    if trial.share is None:
        return ghostify.convert(teacher, trial.ratio, cheap=trial.arm, init=init)
    example, goal = networks.example(trial.network), {"flops": trial.share}
    if trial.arm != "absorbed":
        known = sensitivities(networks, trial.network, trial.seed, few)
        return ghostify.convert(teacher, target=goal, cheap=trial.arm, sensitivity=known, example_input=example)
    if trial.variant == ONE_RATIO:
        return ghostify.convert(teacher, uniform_ratio(networks, trial.network, trial.share, "absorbed"), cheap="absorbed")
    return ghostify.convert(teacher, target=goal, cheap="absorbed", images=few, example_input=example)


def calibrated(student: nn.Module, teacher: nn.Module, few: Tensor, trial: Trial) -> nn.Module:
    """The student, calibrated in place as the trial's options say."""
    options = {name: value for name, value in trial.options.items() if name != "init"}
    plain, passes = options.pop("plain_norms", False), options.pop("passes", 1)
    copies = options.pop("copies", None)
    chosen = {name: options.pop(name) for name in ("steps", "lr", "rotate") if name in options}
    blocks = BlockSettings(**chosen, seed=trial.seed) if trial.method == "block" else None
    settings = Settings(seed=trial.seed, **options)
    for _ in range(passes):
        calibrate_with(student, teacher, few, settings, blocks, ImageSettings(copies=copies))
    if plain:
        ghostify.reestimate_norms(student, few)
    return student


def pruned(networks: Networks, trial: Trial, split: Split) -> Candidate:
    """torch-pruning's at its best setting, norms re-estimated; at the FLOPs of the student of a ratio, or at a share."""
    share = trial.share
    if share is None:
        share = networks.flops_share(
            trial.network, ghostify.convert(networks.teacher(trial.network), trial.ratio, cheap="auto")
        )
    if trial.arm == "best":
        choice = best_choices(networks, trial.network, share)[0]
    else:
        choice = Choice(trial.arm, best_setting(networks, trial.network, trial.arm, share))

    def make() -> nn.Module:
        teacher, example = networks.teacher(trial.network), networks.example(trial.network)
        images = (split.few, split.few_labels)
        model = prune(teacher, example, share, choice.importance, choice.setting, *images, trial.seed)
        assert model is not None
        ghostify.reestimate_norms(model, split.few)
        return model

    return Candidate(*seconds_of(make), str(choice))


def choice_or_refit(networks: Networks, trial: Trial, split: Split) -> Candidate:
    """torch-pruning in free spans: its widths or ours, its channels or ours, norms re-estimated or readers refitted by us."""
    theirs, choice = narrowed_by_pruning(networks, trial, split)
    if not trial.arm.endswith("our refit"):
        ghostify.reestimate_norms(theirs.model, split.few)
        return Candidate(theirs.model, 0.0, str(choice))
    teacher = networks.teacher(trial.network)
    keep = {} if "our choice" in trial.arm else {"choose": False}
    student = with_channels(teacher, theirs.kept)
    fit = replace(trial, method="least_squares", options=keep)
    return Candidate(*seconds_of(lambda: calibrated(student, teacher, split.few, fit)), str(choice))


def narrowed_by_pruning(networks: Networks, trial: Trial, split: Split) -> tuple[PrunedSpans, Choice]:
    """Of the settings that are best for whole networks, the first that reaches the share in free spans alone."""
    assert trial.share is not None
    teacher, example = networks.teacher(trial.network), networks.example(trial.network)
    spans = [record.span for record in recipe_of(ghostify.convert(teacher, 2, cheap="absorbed", init="random")).narrowed]
    choices = best_choices(networks, trial.network, trial.share)
    for choice in choices:
        model = informed(teacher, choice.importance, split.few, split.few_labels)
        pruner = SpanPruner(model, spans, example, choice.importance)
        if trial.arm.startswith("our widths"):
            counts = our_counts(networks, trial.network, trial.seed, trial.images, trial.share)
            every = {span.makers[0]: counts.get(span.makers[0], span.channels) for span in spans}
            return pruner.to_counts(every, choice.setting.normalized), choice
        narrowed = pruner.to_share(trial.share, choice.setting)
        if narrowed is not None:
            return narrowed, choice
    raise SystemExit(
        f"{trial.network}: no setting of torch-pruning reaches {trial.share:.0%} of FLOPs in free spans: {choices}"
    )


@cache
def our_counts(networks: Networks, network: str, seed: int, images: int, share: float) -> dict[str, int]:
    """How many channels of each span stay that one pass of the images shares the budget out to, by the span's first maker."""
    trial = Trial("absorbed", network, "absorbed", seed=seed, images=images, share=share)
    recipe = recipe_of(converted(networks, trial, networks.split(network, seed, images).few))
    return {record.name: len(record.kept) for record in recipe.narrowed}


def with_channels(teacher: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """A student that keeps these channels of each span, by the span's first maker, with the original's own filters."""
    recipe = recipe_of(ghostify.convert(teacher, 2, cheap="absorbed", init="random"))
    spans = []
    for record in recipe.spans:
        channels = kept.get(record.name, torch.arange(record.channels))
        narrower = len(channels) < record.channels
        ratio = record.channels / len(channels) if narrower else None
        reason = None if narrower else record.reason or "all stay"
        spans.append(replace(record, kept=tuple(channels.tolist()) if narrower else (), ratio=ratio, reason=reason))
    return replay(teacher, replace(recipe, spans=tuple(spans)))
