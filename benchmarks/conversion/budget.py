"""Ratios chosen by a budget beside one ratio for all, at equal FLOPs.

    python -m benchmarks.conversion.budget --data DIR --models FILE --imagenet DIR [--threads 2]

DIR, FILE and the pictures are those of calibration/accuracy.py. The largest uniform student within 0.4, 0.5 and 0.6 of FLOPs,
and students of exactly its FLOPs whose ratios are chosen by sensitivities measured on the calibration images, or by the weights
alone; all calibrated in the same way on the same images. Each accuracy is one line of results/budget.jsonl, and none that
stands there is measured again.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from torch import Tensor, nn

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import seconds_of, versions_line
from benchmarks.harness.markdown import mean_and_range, table
from benchmarks.harness.markdown import percent as as_percent
from benchmarks.harness.networks import CIFAR, NETWORKS, Networks, percent, predict
from benchmarks.harness.results import Row, append_line, read_lines
from ghostify.conversion.sensitivity_table import Sensitivity

RESULTS = "budget.jsonl"
RATIOS = (1.25, 1.5, 2, 3, 4, 8)
ARMS = ("uniform", "sensitivity", "weights")


@dataclass(frozen=True)
class Trial:
    network: str
    share: float
    arm: str
    method: str = "least_squares"
    seed: int = 0

    @property
    def key(self) -> str:
        return json.dumps([self.network, self.share, self.arm, self.method, self.seed])


def trials() -> Iterator[Trial]:
    for network in (*CIFAR, "resnet18"):
        for share in (0.5, 0.4, 0.6):
            for arm in ARMS:
                yield Trial(network, share, arm)
    for seed in (1, 2):
        for network in CIFAR:
            for arm in ARMS[:2]:
                yield Trial(network, 0.5, arm, seed=seed)
    for network in CIFAR:
        for arm in ARMS[:2]:
            yield Trial(network, 0.5, arm, "block")


@cache
def uniform_ratio(networks: Networks, network: str, share: float, cheap: str = "auto") -> float:
    """The least ratio whose student is within the share of FLOPs."""
    teacher = networks.teacher(network)
    limit = share * networks.flops(network, teacher)
    for ratio in np.arange(1.1, 5, 0.01):
        try:
            student = ghostify.convert(teacher, round(float(ratio), 2), cheap=cheap, init="random")
        except ghostify.UnsupportedModelError:  # widths are rounded up to where they began
            continue
        if networks.flops(network, student) <= limit:
            return round(float(ratio), 2)
    raise AssertionError("no ratio up to 5 is enough")


def sensitivities(networks: Networks, network: str, seed: int, few: Tensor, progress: bool = False) -> Sensitivity:
    """What each site loses at each ratio, kept in a file."""
    path = networks.data / "sensitivities" / f"{network}_{seed}_{len(few)}.json"
    return ghostify.sensitivity(networks.teacher(network), few, RATIOS, cheap="auto", out=path, progress=progress)


def by_sites(networks: Networks, trial: Trial, flops: int) -> nn.Module:
    """A student of no more FLOPs, its ratios chosen site by site."""
    few = networks.split(trial.network, trial.seed, networks.few(trial.network)).few
    by_sensitivity = trial.arm == "sensitivity"
    return ghostify.convert(
        networks.teacher(trial.network),
        target={"flops": flops},
        cheap="auto",
        sensitivity=sensitivities(networks, trial.network, trial.seed, few, progress=True) if by_sensitivity else None,
        example_input=networks.example(trial.network),
    )


def measured(networks: Networks, trial: Trial) -> Row:
    teacher = networks.teacher(trial.network)
    student = ghostify.convert(teacher, uniform_ratio(networks, trial.network, trial.share), cheap="auto")
    if trial.arm != "uniform":
        student = by_sites(networks, trial, networks.flops(trial.network, student))
    planned = networks.flops_share(trial.network, student)
    split = networks.split(trial.network, trial.seed, networks.few(trial.network))
    _, seconds = seconds_of(lambda: ghostify.calibrate(student, teacher, split.few, method=trial.method, seed=trial.seed))
    answers, wanted = predict(student, split.images), networks.answers(trial.network, trial.seed, False)
    return {
        **{name: getattr(trial, name) for name in ("network", "share", "arm", "method", "seed")},
        "base": percent(wanted == split.labels),
        "top1": percent(answers == split.labels),
        "agreement": percent(answers == wanted),
        "planned_share": round(planned, 4),
        "flops_share": round(networks.flops_share(trial.network, student), 4),
        "seconds": round(seconds, 1),
        "about": versions_line(),
    }


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet")
    add_threads(parser, 2)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    for trial in trials():
        if trial.key not in {row["key"] for row in read_lines(RESULTS)}:
            row = measured(networks, trial)
            append_line(RESULTS, {"key": trial.key, **row})
            print(f"{trial.key}: {row['top1']} (base {row['base']}), {row['flops_share']:.1%} of FLOPs", flush=True)


def tables() -> dict[str, str]:
    """Ratios chosen by a budget beside one for all, at equal FLOPs: mean over seeds, and range."""
    groups: dict[tuple[str, str, float], dict[str, list[Row]]] = {}
    for row in read_lines(RESULTS):
        groups.setdefault((row["network"], row["method"], row["share"]), {}).setdefault(row["arm"], []).append(row)
    lines, gains = [], []
    for (network, method, share), arms in sorted(groups.items(), key=lambda g: (NETWORKS.index(g[0][0]), g[0][1:])):
        if not {"uniform", "sensitivity"} <= arms.keys():
            continue
        seeds = {row["seed"] for row in arms["uniform"]} & {row["seed"] for row in arms["sensitivity"]}
        top1 = {arm: [row["top1"] for row in rows if row["seed"] in seeds] for arm, rows in arms.items()}
        gain = sum(top1["sensitivity"]) / len(seeds) - sum(top1["uniform"]) / len(seeds)
        if method == "least_squares":
            gains.append(gain)
        flops = sum(row["planned_share"] for row in arms["uniform"]) / len(arms["uniform"])
        cells = [mean_and_range(top1[arm]) if top1.get(arm) else "" for arm in ("uniform", "weights", "sensitivity")]
        base = mean_and_range([row["base"] for row in arms["uniform"] if row["seed"] in seeds])
        lines.append([network, method, f"{share:g}", as_percent(flops), base, *cells, f"{gain:+.2f}", str(len(seeds))])
    header = ["network", "calibration", "budget", "FLOPs", "original, %", "one ratio for all, %"]
    header += ["by the weights, %", "by sensitivities, %", "gain, points", "seeds"]
    mean = sum(gains) / len(gains)
    note = f"Calibrated in closed form, a ratio for each site is worth {mean:.1f} points on average, {min(gains):.1f} at least."
    return {"budget": f"{table(header, lines)}\n\n{note}"}


if __name__ == "__main__":
    main()
