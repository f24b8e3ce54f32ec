"""The rival: structured channel pruning with torch-pruning, in one shot, down to a share of the FLOPs."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

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
    model: nn.Module, example: Tensor, share: float, importance: str, setting: Setting,
    images: Tensor | None = None, labels: Tensor | None = None, seed: int = 0,
) -> nn.Module | None:  # fmt: skip
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
    goal = share * measure(model, (example,)).flops
    low, high, best = 0.0, 0.95, None
    with torch.random.fork_rng(devices=[]):
        for _ in range(14):
            middle = (low + high) / 2
            torch.manual_seed(seed)
            pruned = _prune_once(model, example, middle, importance, setting)
            if measure(pruned, (example,)).flops <= goal:
                best, high = pruned, middle
            else:
                low = middle
    if best is not None:
        best.zero_grad()
    return best


def accumulate_gradients(model: nn.Module, images: Any, labels: Tensor | None) -> None:
    """Gradients of the loss over all images, in evaluation mode."""
    model.zero_grad()
    for start in range(0, len(images), 32):
        batch = images[start : start + 32]
        logits = model(batch)
        target = logits.argmax(1) if labels is None else labels[start : start + 32]
        nn.functional.cross_entropy(logits, target, reduction="sum").backward()


def _prune_once(model: nn.Module, example: Tensor, ratio: float, importance: str, setting: Setting) -> nn.Module:
    """A copy from which ``ratio`` of all channels is gone, the least important first."""
    pruned = copy.deepcopy(model)
    for mine, theirs in zip(pruned.parameters(), model.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    options = {} if setting.normalized else {"group_reduction": "sum", "normalizer": None}
    score = {
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2, **options),
        "taylor": lambda: tp.importance.GroupTaylorImportance(**options),
        "random": lambda: tp.importance.RandomImportance(),
    }[importance]()
    classifier = [m for m in pruned.modules() if isinstance(m, nn.Linear)][-1]
    tp.pruner.BasePruner(
        pruned, example, importance=score, pruning_ratio=ratio, global_pruning=setting.everywhere,
        max_pruning_ratio=setting.most, ignored_layers=[classifier],
    ).step()  # fmt: skip
    return pruned
