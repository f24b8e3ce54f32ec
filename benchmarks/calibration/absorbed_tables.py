"""Tables of absorbed ghosts beside pruning at equal FLOPs: accuracy with paired errors, and choice apart from refit."""

from math import sqrt

import numpy as np

from benchmarks.calibration.accuracy_trials import APART, GOALS, ONE_RATIO
from benchmarks.harness.markdown import mean_and_range, percent, table
from benchmarks.harness.networks import CIFAR
from benchmarks.harness.results import Row, read_lines

PICTURES = 500  # of ImageNet, half of which are measured on
ARMS = {
    ("absorbed", "block", ""): "absorbed, block steps",
    ("absorbed", "least_squares", ""): "absorbed, closed form",
    ("absorbed", "least_squares", ONE_RATIO): f"absorbed, closed form, {ONE_RATIO}",
    ("best", "pruning", ""): "torch-pruning, norms re-estimated",
}
Key = tuple[str, str, str]


def tables() -> dict[str, str]:
    by_network: dict[str, dict[Key, list[Row]]] = {network: {} for network in GOALS}
    for row in read_lines("calibration.jsonl"):
        if "right" in row:
            by_network[row["network"]].setdefault((row["arm"], row["method"], row["variant"]), []).append(row)
    return {"absorbed": accuracy(by_network), "apart": choice_and_refit(by_network)}


def accuracy(by_network: dict[str, dict[Key, list[Row]]]) -> str:
    """Mean over seeds and range; what the original has more and pruning has less, with standard errors over equal images."""
    lines = []
    for network, groups in by_network.items():
        rival = groups.get(("best", "pruning", ""), [])
        for key, name in ARMS.items():
            if rows := groups.get(key):
                lost = difference([(row["seed"], row["base_right"], row["right"]) for row in rows], network)
                ahead = difference(pairs(rows, rival), network) if key[1] != "pruning" and rival else ""
                lines.append([network, name, *facts(rows), lost, ahead, str(len(rows))])
    header = ["network", "method", "FLOPs", "original, %", "top-1, %", "lost, points", "ahead of pruning, points", "seeds"]
    return table(header, lines)


def choice_and_refit(by_network: dict[str, dict[Key, list[Row]]]) -> str:
    """torch-pruning kept to the channels of free spans: whose widths, whose choice, refit or norms alone."""
    lines = []
    for network, groups in by_network.items():
        for arm in APART:
            if rows := groups.get((arm, "apart", "")):
                lines.append([network, arm, *facts(rows), str(len(rows))])
        if rows := groups.get(("absorbed", "least_squares", "")) if lines else None:
            lines.append([network, "our widths, our choice, our refit", *facts(rows), str(len(rows))])
    return table(["network", "widths, choice, refit", "FLOPs", "original, %", "top-1, %", "seeds"], lines)


def facts(rows: list[Row]) -> list[str]:
    share = sum(row["flops_share"] for row in rows) / len(rows)
    return [percent(share), *(mean_and_range([row[key] for row in rows]) for key in ("base", "top1"))]


def pairs(rows: list[Row], rival: list[Row]) -> list[tuple[int, str, str]]:
    others = {row["seed"]: row["right"] for row in rival}
    return [(row["seed"], row["right"], others[row["seed"]]) for row in rows if row["seed"] in others]


def difference(runs: list[tuple[int, str, str]], network: str) -> str:
    """By how many points the first is more often right than the second, and the standard error over images.

    An image that is measured in several seeds counts as one: its differences are added up first.

    Args:
        runs: for each seed, the images that each was right on, as hexadecimal bits.
        network: which tells the images that a seed is measured on.
    """
    images = 10_000 if network in CIFAR else PICTURES
    total, count = np.zeros(images), np.zeros(images)
    for seed, one, other in runs:
        measured = np.arange(images) if network in CIFAR else np.random.RandomState(seed).permutation(images)[-images // 2 :]
        total[measured] += bits(one, len(measured)) - bits(other, len(measured))
        count[measured] += 1
    mean = total.sum() / count.sum()
    error = sqrt(np.square(total - mean * count).sum()) / count.sum()
    return f"{100 * mean:+.2f} ± {100 * error:.2f}"


def bits(text: str, count: int) -> np.ndarray:
    return np.array([int(bit) for bit in f"{int(text, 16):0{count}b}"])
