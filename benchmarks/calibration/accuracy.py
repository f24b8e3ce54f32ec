"""Accuracy straight after calibration, beside torch-pruning at equal FLOPs.

    python -m benchmarks.calibration.accuracy --data DIR --models FILE --imagenet DIR          # 56 minutes on two cores
    python -m benchmarks.calibration.accuracy --data DIR --models FILE --imagenet DIR --full   # more seeds, ablations, curves

DIR (data) holds cifar10.npz and the four networks' weights, FILE builds the two CIFAR-10 networks, DIR (imagenet) holds 500
pictures NNNN_*.jpg, NNNN their class. Each trial is one line of results/calibration.jsonl; a trial that stands there is not
run again, so an interrupted run goes on where it stopped. ``--section`` runs one part: ``absorbed``, absorbed
ghosts at each network's goal of FLOPs; ``shares``, accuracy against FLOPs. ``--threads`` sets torch's threads.

CIFAR-10: calibration images from the training set, seeds choose them; top-1 on all 10,000 test images. Ablations, which choose
between settings, are measured on training images 45,000 to 49,999, which neither networks nor calibration have seen. ImageNet:
250 pictures for calibration, the other 250 for the measurement, seeds split them.
"""

import re
import statistics
from argparse import Namespace
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.calibration.accuracy_trials import SECTIONS, Trial
from benchmarks.calibration.candidates import Candidate, candidate
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import versions_line
from benchmarks.harness.networks import CIFAR, NETWORKS, Networks, percent, predict
from benchmarks.harness.pruning_choice import seconds_to_try_all
from benchmarks.harness.results import Row, append_line, read_lines

RESULTS = "calibration.jsonl"
PAIRED = ("absorbed",)  # sections whose rows keep which images were right, for paired errors


def measured(networks: Networks, trial: Trial, candidate: Candidate) -> Row:
    choose = trial.section == "ablation"
    split = networks.split(trial.network, trial.seed, trial.images, choose)
    answers, wanted = predict(candidate.model, split.images), networks.answers(trial.network, trial.seed, choose)
    row: Row = {
        **about(trial),
        "base": percent(wanted == split.labels),
        "top1": percent(answers == split.labels),
        "agreement": percent(answers == wanted),
        "flops_share": round(networks.flops_share(trial.network, candidate.model), 4),
        "seconds": round(candidate.seconds, 1),
        "setting": candidate.setting,
        "measured_on": "training images 45,000 to 49,999" if choose else "test",
        "about": versions_line(),
    }
    if trial.section in PAIRED:
        row |= {"right": as_hex(answers == split.labels), "base_right": as_hex(wanted == split.labels)}
    return row


def about(trial: Trial) -> Row:
    names = ("network", "arm", "method", "seed", "images", "ratio", "share", "variant")
    row = {name: getattr(trial, name) for name in names}
    return {**row, "ratio": None} if trial.share is not None else {name: row[name] for name in names if name != "share"}


def as_hex(hits: Tensor) -> str:
    """One bit an image, the first image's the highest."""
    return f"{int(''.join('1' if hit else '0' for hit in hits.tolist()), 2):0{-(-len(hits) // 4)}x}"


def seconds_expected(trial: Trial, rows: list[Row]) -> float:
    """What others of a trial's kind took, else a guess for two cores; measuring and choosing settings of pruning included."""
    kind = (trial.network, trial.arm, trial.method)
    known = [row["seconds"] for row in rows if (row["network"], row["arm"], row["method"]) == kind and "seconds" in row]
    small = trial.network in CIFAR
    guess = {"block": 400 if small else 2400, "pruning": 20 if small else 40}.get(trial.method, 90 if small else 240)
    extra = {"pruning": 60 if small else 180, "apart": 20}.get(trial.method, 0) if trial.share is not None else 0
    return (statistics.median(known) if known else guess) + extra + (25 if small else 10)


def hours_left(trials: Collection[Trial], rows: list[Row]) -> float:
    choosing = {trial.network for trial in trials if trial.share is not None and trial.method in ("pruning", "apart")}
    seconds = sum(seconds_expected(trial, rows) for trial in trials)
    return (seconds + sum(seconds_to_try_all(network) for network in choosing)) / 3600


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one seed of images")
    parser.add_argument("--estimate", action="store_true", help="say how long it would take, and end there")
    parser.add_argument("--section", choices=SECTIONS)
    parser.add_argument("--network", choices=NETWORKS)
    parser.add_argument("--method", choices=("least_squares", "block", "pruning", "apart"))
    parser.add_argument(
        "--keep", type=Path, help="existing folder where the networks are kept for deployment/latency_accuracy.py"
    )
    add_threads(parser)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    sections = [args.section] if args.section else list(SECTIONS) if args.full else ["main"]
    rows = read_lines(RESULTS)
    done = {row["key"] for row in rows}
    trials = {trial.key: trial for section in sections for trial in SECTIONS[section]()}
    trials = {key: trial for key, trial in trials.items() if key not in done and wanted(trial, args)}
    print(f"{len(trials)} trials, about {hours_left(trials.values(), rows):.1f} hours on two cores", flush=True)
    for number, (key, trial) in enumerate({} if args.estimate else trials.items(), start=1):
        _, row = kept(networks, trial, args.keep) if args.keep else tried(networks, trial)
        append_line(RESULTS, {"key": key, **row})
        name = " ".join(map(str, (trial.network, trial.arm, trial.method, trial.variant, f"seed {trial.seed}")))
        result = row.get("refused") or f"{row['top1']} (base {row['base']}) at {row['flops_share']:.1%}, {row['seconds']} s"
        print(f"{number}/{len(trials)} {name}: {result}", flush=True)


def wanted(trial: Trial, args: Namespace) -> bool:
    """Whether the arguments ask for a trial."""
    return args.network in (None, trial.network) and args.method in (None, trial.method) and not (args.quick and trial.seed)


def kept(networks: Networks, trial: Trial, folder: Path) -> tuple[nn.Module | None, Row]:
    """What `tried` gives, from a file where it was made before."""
    networks.teacher(trial.network)  # makes the classes known that the file names
    file = folder / f"{re.sub('[^a-z0-9.]+', '_', trial.key)}.pt"
    if not file.exists():
        part = file.with_suffix(".part")
        torch.save(tried(networks, trial), part)
        part.rename(file)
    return torch.load(file, weights_only=False)  # a network that this script wrote


def tried(networks: Networks, trial: Trial) -> tuple[nn.Module | None, Row]:
    """The network of a trial and its row; where its share of FLOPs can't be reached, the words of the refusal."""
    try:
        result = candidate(networks, trial)
    except ghostify.ArgumentError as error:
        if trial.share is None or "out of reach" not in str(error):
            raise
        return None, {**about(trial), "refused": str(error)}
    return result.model, measured(networks, trial, result)


if __name__ == "__main__":
    main()
