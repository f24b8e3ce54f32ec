"""The rival: structured channel pruning with torch-pruning, in one shot, down to a share of the FLOPs.

torch-pruning is imported where it is used, since tables are made without it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.common.costs import measure

IMPORTANCES = ("l1", "l2", "taylor", "hessian", "bn_scale", "lamp", "fpgm", "activation")
"""torch-pruning's, but for EigenDamage's, which follows no network with parameters outside of layers, and random choice."""


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
        importance: one of IMPORTANCES, or ``"random"``. Taylor and Hessian take cross-entropy with ``labels``, which pruning
            is given and calibration is not.
        setting: one of SETTINGS.
        images, labels: for Taylor, Hessian and activations; without labels the model's own answers are taken.
        seed: of random importance.

    Returns:
        None where no pruning ratio reaches the share.
    """
    return shrink(informed(model, importance, images, labels), example, share, importance, setting, seed)


def shrink(
    model: nn.Module, example: Tensor, share: float, importance: str, setting: Setting, seed: int = 0
) -> nn.Module | None:
    """What `prune` does, of a network that `informed` has made ready."""

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


def informed(model: nn.Module, importance: str, images: Tensor | None, labels: Tensor | None) -> nn.Module:
    """A copy in evaluation mode that carries what an importance asks of images, where torch-pruning looks for it."""
    model = copy.deepcopy(model).eval()
    if importance in ("taylor", "hessian"):
        assert images is not None
        accumulate_gradients(model, images, labels, squares=importance == "hessian")
    if importance == "activation":
        assert images is not None
        with score_of(importance).compute_importance(model), torch.no_grad():
            model(images[:64])  # it keeps what the last batch says
    return model


def accumulate_gradients(model: nn.Module, images: Tensor, labels: Tensor | None, squares: bool = False) -> None:
    """Gradients of the loss over all images, in evaluation mode; or the mean of each image's squared ones.

    torch-pruning's own accumulation of squares keeps those of the last image alone, since it looks for the names of parameters
    where it stores parameters.
    """
    step = 1 if squares else 32
    sums: dict[nn.Parameter, Tensor] = {}
    model.zero_grad()
    for batch, wanted in zip(images.split(step), (images if labels is None else labels).split(step), strict=True):
        logits = model(batch)
        target = logits.argmax(1) if labels is None else wanted
        nn.functional.cross_entropy(logits, target, reduction="sum").backward()
        if squares:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    sums[parameter] = sums.get(parameter, 0) + parameter.grad.square() / len(images)
            model.zero_grad()
    for parameter, total in sums.items():
        parameter.grad = total


def prune_once(model: nn.Module, example: Tensor, ratio: float, importance: str, setting: Setting) -> nn.Module:
    """A copy from which ``ratio`` of all channels is gone, the least important first."""
    pruned = copy_with_gradients(model)
    classifier = [m for m in pruned.modules() if isinstance(m, nn.Linear)][-1]
    pruner(pruned, example, importance, setting, [classifier], pruning_ratio=ratio).step()
    return pruned


def copy_with_gradients(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    for parameter, original in zip(copied.parameters(), model.parameters(), strict=True):
        parameter.grad = None if original.grad is None else original.grad.clone()
    return copied


def pruner(
    model: nn.Module, example: Tensor, importance: str, setting: Setting, ignored: list[nn.Module], **ratios: Any
) -> Any:
    """torch-pruning's own, whose ``step`` changes the model."""
    import torch_pruning as tp

    return tp.pruner.BasePruner(
        model,
        example,
        importance=score_of(importance, setting.normalized),
        global_pruning=setting.everywhere,
        max_pruning_ratio=setting.most,
        ignored_layers=ignored,
        **ratios,
    )


def score_of(importance: str, normalized: bool = True) -> Any:
    """An importance of torch-pruning; LAMP has its own way to divide."""
    from torch_pruning import importance as scores

    reduction = {} if normalized else {"group_reduction": "sum"}
    options = {} if normalized else {**reduction, "normalizer": None}
    makers: dict[str, Callable[[], Any]] = {
        "l1": lambda: scores.GroupMagnitudeImportance(p=1, **options),
        "l2": lambda: scores.GroupMagnitudeImportance(p=2, **options),
        "taylor": lambda: scores.GroupTaylorImportance(**options),
        "hessian": lambda: scores.GroupHessianImportance(**options),
        "bn_scale": lambda: scores.BNScaleImportance(**options),
        "lamp": lambda: scores.LAMPImportance(**reduction),
        "fpgm": lambda: scores.FPGMImportance(**options),
        "activation": lambda: scores.ActivationImportance(**options),
        "random": lambda: scores.RandomImportance(),
    }
    return makers[importance]()
