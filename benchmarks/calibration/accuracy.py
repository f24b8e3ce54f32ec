"""Accuracy straight after calibration, beside torch-pruning at equal FLOPs.

    python -m benchmarks.calibration.accuracy --data DIR --models FILE --imagenet DIR          # 56 minutes on two cores
    python -m benchmarks.calibration.accuracy --data DIR --models FILE --imagenet DIR --full   # more seeds, ablations, curves

DIR (data) holds cifar10.npz and the four networks' weights, FILE builds the two CIFAR-10 networks, DIR (imagenet) holds 500
pictures NNNN_*.jpg, NNNN their class. Each trial is one line of results/calibration.jsonl; a trial that stands there is not
run again, so an interrupted run goes on where it stopped. ``--section`` runs one part, ``--threads`` sets torch's threads.

CIFAR-10: calibration images from the training set, seeds choose them; top-1 on all 10,000 test images. Ablations, which choose
between settings, are measured on training images 45,000 to 49,999, which neither networks nor calibration have seen. ImageNet:
250 pictures for calibration, the other 250 for the measurement, seeds split them.
"""

from dataclasses import dataclass

from torch import Tensor, nn

import ghostify
from benchmarks.calibration.accuracy_trials import SECTIONS, Trial
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import seconds_of, versions_line
from benchmarks.harness.networks import NETWORKS, Networks, percent, predict
from benchmarks.harness.pruning import Setting, best_setting, prune
from benchmarks.harness.results import Row, append_line, read_lines
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.settings import BlockSettings, ImageSettings, Settings

RESULTS = "calibration.jsonl"


@dataclass(frozen=True)
class Candidate:
    """A calibrated student, or a pruned network; the seconds that it took; how it was pruned."""

    model: nn.Module
    seconds: float
    setting: Setting | None = None


def candidate(networks: Networks, trial: Trial) -> Candidate:
    few, few_labels, _, _ = networks.split(trial.network, trial.seed, trial.images)
    cheap = "auto" if trial.method == "pruning" else trial.arm
    init = trial.options.get("init", "warm")
    student = ghostify.convert(networks.teacher(trial.network), trial.ratio, cheap=cheap, init=init)
    if trial.method == "pruning":
        return pruned(networks, trial, networks.flops_share(trial.network, student), few, few_labels)
    _, seconds = seconds_of(lambda: calibrate(student, networks.teacher(trial.network), few, trial))
    return Candidate(student, seconds)


def pruned(networks: Networks, trial: Trial, share: float, few: Tensor, few_labels: Tensor) -> Candidate:
    setting = best_setting(networks, trial.network, trial.arm, share)

    def make() -> nn.Module:
        teacher, example = networks.teacher(trial.network), networks.example(trial.network)
        model = prune(teacher, example, share, trial.arm, setting, few, few_labels, trial.seed)
        assert model is not None
        ghostify.reestimate_norms(model, few)
        return model

    return Candidate(*seconds_of(make), setting)


def calibrate(student: nn.Module, teacher: nn.Module, few: Tensor, trial: Trial) -> None:
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


def measured(networks: Networks, trial: Trial, candidate: Candidate) -> Row:
    choose = trial.section == "ablation"
    split = networks.split(trial.network, trial.seed, trial.images, choose)
    answers, wanted = predict(candidate.model, split.images), networks.answers(trial.network, trial.seed, choose)
    names = ("network", "arm", "method", "seed", "images", "ratio", "variant")
    return {
        **{name: getattr(trial, name) for name in names},
        "base": percent(wanted == split.labels),
        "top1": percent(answers == split.labels),
        "agreement": percent(answers == wanted),
        "flops_share": round(networks.flops_share(trial.network, candidate.model), 4),
        "seconds": round(candidate.seconds, 1),
        "setting": str(candidate.setting or ""),
        "measured_on": "training images 45,000 to 49,999" if choose else "test",
        "about": versions_line(),
    }


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--section", choices=SECTIONS)
    parser.add_argument("--network", choices=NETWORKS)
    add_threads(parser)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    sections = [args.section] if args.section else list(SECTIONS) if args.full else ["main"]
    trials = {trial.key: trial for section in sections for trial in SECTIONS[section]()}
    trials = {key: trial for key, trial in trials.items() if args.network in (None, trial.network)}
    done = {row["key"] for row in read_lines(RESULTS)}
    for number, (key, trial) in enumerate(trials.items(), start=1):
        if key in done:
            continue
        row = measured(networks, trial, candidate(networks, trial))
        append_line(RESULTS, {"key": key, **row})
        name = " ".join(map(str, (trial.network, trial.arm, trial.method, trial.variant, f"seed {trial.seed}")))
        print(f"{number}/{len(trials)} {name}: {row['top1']} (base {row['base']}), {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
