"""The rival: structured channel pruning with torch-pruning, in one shot, down to a share of the FLOPs.

torch-pruning is imported where it is used, since tables are made without it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.harness.networks import CIFAR, Networks, percent, predict
from ghostify.common.costs import measure


@dataclass(frozen=True)
class Setting:
    """How torch-pruning ranks channels; which is best depends on the network, by thirty points and more.

    ``normalized``: importances of a group are averaged and divided by their mean (torch-pruning's default), or summed as
    they are. ``most``: no layer loses more than this share, or a global ranking empties one, and the network with it.
    """

    normalized: bool
    most: float
    everywhere: bool = True  # one ranking for the whole network, or one for each layer


SETTINGS = [Setting(normalized, most) for normalized in (False, True) for most in (0.5, 0.7, 0.9)]
SETTINGS += [Setting(normalized, 1.0, everywhere=False) for normalized in (False, True)]


def prune(
    model: nn.Module,
    example: Tensor,
    share: float,
    importance: str,
    setting: Setting,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> nn.Module | None:
    """A pruned copy with at most ``share`` of the FLOPs, and as close below as global pruning gets.

    Args:
        model: in evaluation mode; unchanged.
        example: one input, (1, C, H, W).
        share: of the original's multiply-adds.
        importance: ``"l2"``, ``"taylor"`` (cross-entropy with ``labels``, which pruning is given and calibration is not) or
            ``"random"``.
        setting: one of SETTINGS.
        images, labels: for Taylor; without labels the model's own answers are taken.
        seed: of random importance.

    Returns:
        None where no pruning ratio reaches the share.
    """
    model = copy.deepcopy(model).eval()
    if importance == "taylor":
        accumulate_gradients(model, images, labels)

    def pruned_by(ratio: float) -> nn.Module:
        torch.manual_seed(seed)
        return prune_once(model, example, ratio, importance, setting)

    with torch.random.fork_rng(devices=[]):
        goal = share * measure(model, (example,)).flops
        best = largest_within(goal, pruned_by, lambda pruned: measure(pruned, (example,)).flops, halvings=14)
    if best is not None:
        best.zero_grad()
    return best


def largest_within(
    goal: float, pruned_by: Callable[[float], nn.Module], flops: Callable[[nn.Module], int], halvings: int
) -> nn.Module | None:
    """The network of the least pruning ratio whose FLOPs are within the goal, by halving the interval of ratios."""
    low, high, best = 0.0, 0.95, None
    for _ in range(halvings):
        middle = (low + high) / 2
        pruned = pruned_by(middle)
        if flops(pruned) <= goal:
            best, high = pruned, middle
        else:
            low = middle
    return best


def accumulate_gradients(model: nn.Module, images: Any, labels: Tensor | None) -> None:
    """Gradients of the loss over all images, in evaluation mode."""
    model.zero_grad()
    for start in range(0, len(images), 32):
        batch = images[start : start + 32]
        logits = model(batch)
        target = logits.argmax(1) if labels is None else labels[start : start + 32]
        nn.functional.cross_entropy(logits, target, reduction="sum").backward()


def prune_once(model: nn.Module, example: Tensor, ratio: float, importance: str, setting: Setting) -> nn.Module:
    """A copy from which ``ratio`` of all channels is gone, the least important first."""
    import torch_pruning as tp

    pruned = copy.deepcopy(model)
    for parameter, original in zip(pruned.parameters(), model.parameters(), strict=True):
        parameter.grad = None if original.grad is None else original.grad.clone()
    options = {} if setting.normalized else {"group_reduction": "sum", "normalizer": None}
    score = {
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2, **options),
        "taylor": lambda: tp.importance.GroupTaylorImportance(**options),
        "random": lambda: tp.importance.RandomImportance(),
    }[importance]()
    classifier = [m for m in pruned.modules() if isinstance(m, nn.Linear)][-1]
    tp.pruner.BasePruner(
        pruned,
        example,
        importance=score,
        pruning_ratio=ratio,
        global_pruning=setting.everywhere,
        max_pruning_ratio=setting.most,
        ignored_layers=[classifier],
    ).step()
    return pruned


@cache
def best_setting(networks: Networks, network: str, importance: str, share: float) -> Setting:
    """The rival's best on images and labels that nobody is measured on: for CIFAR-10 1,000 of the held-out training images, for
    ImageNet, where there are no more, the very images that it is pruned with."""
    teacher, example = networks.teacher(network), networks.example(network)
    few, few_labels, _, _ = networks.split(network, 0, networks.few(network))
    images, labels = networks.cifar("train", slice(45000, 46000)) if network in CIFAR else (few, few_labels)
    scores = {}
    for setting in SETTINGS:
        pruned = prune(teacher, example, share, importance, setting, few, few_labels)
        if pruned is not None:
            ghostify.reestimate_norms(pruned, few)
            scores[setting] = percent(predict(pruned, images) == labels)
    best = max(scores, key=lambda setting: scores[setting])
    print(f"{network} {importance}: {best}, {scores[best]} on images to choose by", flush=True)
    return best
