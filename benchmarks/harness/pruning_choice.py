"""Which importance and setting of torch-pruning is best for a network, on images and labels that nobody is measured on.

For CIFAR-10 these are 1,000 of the held-out training images, for ImageNet, where there are no more, the very images that the
network is pruned with. What each came to is a line of results/pruning_choice.jsonl, and none that stands there is tried again.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torch import nn

import ghostify
from benchmarks.harness.networks import CIFAR, Networks, percent, predict
from benchmarks.harness.pruning import IMPORTANCES, SETTINGS, Setting, informed, shrink
from benchmarks.harness.results import Row, append_line, read_lines

RESULTS = "pruning_choice.jsonl"
ANCHOR = 0.5  # the share of FLOPs at which all are tried
TRIED = 6  # at any other share, so many that did best there


@dataclass(frozen=True)
class Choice:
    importance: str
    setting: Setting


def best_setting(networks: Networks, network: str, importance: str, share: float) -> Setting:
    """The best setting of one importance at a share of FLOPs."""
    return ranked(networks, network, share, [Choice(importance, setting) for setting in SETTINGS])[0].setting


def best_choices(networks: Networks, network: str, share: float) -> list[Choice]:
    """Importances and settings at a share of FLOPs, the best first: of those that did best at half, or else of all."""
    everything = [Choice(importance, setting) for importance in IMPORTANCES for setting in SETTINGS]
    first = ranked(networks, network, ANCHOR, everything)[:TRIED]
    return ranked(networks, network, share, first) or ranked(networks, network, share, everything)


def ranked(networks: Networks, network: str, share: float, choices: list[Choice]) -> list[Choice]:
    """Those choices that reach the share, the best first."""
    by_score = scores(networks, network, share, choices)
    return sorted(by_score, key=lambda choice: -by_score[choice])


def scores(networks: Networks, network: str, share: float, choices: list[Choice]) -> dict[Choice, float]:
    """Top-1 on the images to choose by of those choices that reach the share."""
    share = round(share, 3)
    known = {choice_of(row): row["top1"] for row in read_lines(RESULTS) if (row["network"], row["share"]) == (network, share)}
    for importance in dict.fromkeys(choice.importance for choice in choices):
        missing = [choice for choice in choices if choice.importance == importance and choice not in known]
        for choice, top1 in tried(networks, network, share, importance, missing):
            known[choice] = top1
            append_line(RESULTS, {"network": network, "share": share, **asdict(choice), "top1": top1})
    return {choice: top1 for choice in choices if (top1 := known[choice]) is not None}


def seconds_to_try_all(network: str) -> float:
    """A guess of what trying all choices at half of the FLOPs takes on two cores, apart from those that stand in the file."""
    known = sum((row["network"], row["share"]) == (network, ANCHOR) for row in read_lines(RESULTS))
    return max(0, len(IMPORTANCES) * len(SETTINGS) - known) * (10 if network in CIFAR else 25)


def choice_of(row: Row) -> Choice:
    return Choice(row["importance"], Setting(**row["setting"]))


def tried(
    networks: Networks, network: str, share: float, importance: str, choices: list[Choice]
) -> Iterator[tuple[Choice, float | None]]:
    """Each choice of an importance with its top-1, or None where it does not reach the share."""
    if not choices:
        return
    few, few_labels, _, _ = networks.split(network, 0, networks.few(network))
    images, labels = networks.cifar("train", slice(45000, 46000)) if network in CIFAR else (few, few_labels)
    model = informed(networks.teacher(network), importance, few, few_labels)
    for choice in choices:
        pruned: nn.Module | None = shrink(model, networks.example(network), share, importance, choice.setting)
        if pruned is None:
            yield choice, None
            continue
        ghostify.reestimate_norms(pruned, few)
        yield choice, percent(predict(pruned, images) == labels)
