"""The rival: structured channel pruning with torch-pruning, in one shot, down to a share of the FLOPs."""

import copy
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from ghostify.costs import measure


def prune(
    model: nn.Module, example: Tensor, share: float, importance: str,
    images: Tensor | None = None, labels: Tensor | None = None, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """A pruned copy with at most ``share`` of the FLOPs, and as close below as global pruning gets.

    Args:
        model: in evaluation mode; unchanged.
        example: one input, (1, C, H, W).
        share: of the original's multiply-adds.
        importance: ``"l2"``, ``"taylor"`` (cross-entropy with ``labels``, which pruning is given and calibration is not) or
            ``"random"``.
        images, labels: for Taylor; without labels the model's own answers are taken.
        seed: of random importance.
    """
    model = copy.deepcopy(model).eval()
    if importance == "taylor":
        accumulate_gradients(model, images, labels)
    goal = share * measure(model, (example,)).flops
    low, high, best = 0.0, 0.9, None
    with torch.random.fork_rng(devices=[]):
        for _ in range(14):
            middle = (low + high) / 2
            torch.manual_seed(seed)
            pruned = _prune_once(model, example, middle, importance)
            if measure(pruned, (example,)).flops <= goal:
                best, high = pruned, middle
            else:
                low = middle
    assert best is not None, "no pruning ratio reaches the share"
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


def _prune_once(model: nn.Module, example: Tensor, ratio: float, importance: str) -> nn.Module:
    """A copy from which ``ratio`` of all channels is gone, the least important of the whole network first."""
    pruned = copy.deepcopy(model)
    for mine, theirs in zip(pruned.parameters(), model.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    scores = {
        "l2": tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance(),
        "random": tp.importance.RandomImportance(),
    }
    classifier = [m for m in pruned.modules() if isinstance(m, nn.Linear)][-1]
    tp.pruner.BasePruner(
        pruned, example, importance=scores[importance], pruning_ratio=ratio, global_pruning=True,
        max_pruning_ratio=0.9,  # or a global ranking empties a layer, and the network with it
        ignored_layers=[classifier],
    ).step()  # fmt: skip
    return pruned
