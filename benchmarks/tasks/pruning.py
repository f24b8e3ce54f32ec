"""torch-pruning's networks of detection and segmentation; it is imported where it is used, since tables are made without it."""

import copy

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.harness.pruning import largest_within
from benchmarks.tasks.kinds import Task
from ghostify.common.costs import measure


def pruned(task: Task, model: nn.Module, share: float) -> nn.Module:
    """torch-pruning's, of L2 norms, each layer at the same share of channels: at most ``share`` of the FLOPs."""

    def flops(network: nn.Module) -> int:
        return measure(network, task.example()).flops

    best = largest_within(share * flops(model), lambda ratio: pruned_once(task, model, ratio), flops, halvings=12)
    assert best is not None
    return frozen(best, True) if any(isinstance(m, FrozenBatchNorm2d) for m in model.modules()) else best.eval()


def pruned_once(task: Task, model: nn.Module, ratio: float) -> nn.Module:
    import torch_pruning as tp

    smaller = frozen(copy.deepcopy(model), False)
    part, ignored = task.prunable(smaller)
    tp.pruner.BasePruner(
        part,
        torch.rand(1, 3, 192, 256),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=False,
        ignored_layers=ignored,
        output_transform=lambda output: sum(o.sum() for o in output.values()),
    ).step()
    return smaller


def frozen(model: nn.Module, wanted: bool) -> nn.Module:
    """With norms as torchvision freezes them, or as torch-pruning knows them."""
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d) if wanted else (FrozenBatchNorm2d, nn.BatchNorm2d)
    for name, module in list(model.named_modules()):
        if isinstance(module, kinds[0]):
            norm = kinds[1](len(module.weight), eps=module.eps)
            norm.load_state_dict(module.state_dict(), strict=False)
            model.set_submodule(name, norm)
    return model.eval()
