"""Gradient steps on one block at a time, towards the teacher's output of that block; no labels.

As in BRECQ (Li et al., ICLR 2021, https://arxiv.org/abs/2102.05426) and PRACTISE (Wang and Wu, CVPR 2023,
https://arxiv.org/abs/2202.03957), with the closed-form fit as the start and the converted prefix as the input.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..graph.running import GraphRun
from ..graph.sites import Site
from ..layers.norm_affine import affine_of
from .rotated_adam import RotatedAdam, input_bases
from .settings import BlockSettings


@dataclass(frozen=True)
class End:
    """Where a block is complete: the node of student and teacher, the activation to compare after, the site itself where the
    block ends with one and not with a sum."""

    student: fx.Node
    teacher: fx.Node
    act: nn.Module | None
    site: Site | None = None


def train_block(student: GraphRun, teacher: GraphRun, end: End, modules: Sequence[nn.Module], settings: BlockSettings) -> None:
    """Train ``modules`` in place; the student's stream stands before the block, the teacher's has run it."""
    nodes = student.ancestors([end.student])
    parameters = [p for module in modules for p in module.parameters() if p.is_floating_point()]
    wanted = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    rates = [settings.lr * size for size in _sizes(modules, parameters)]
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []

    def loss_of(index: int) -> Tensor:
        values = dict(student.batches[index])
        goal = _finish(end, teacher.batches[index][end.teacher.name], of_teacher=True)
        for node in nodes:
            values[node.name] = student.evaluate(node, values)
        return (_finish(end, values[end.student.name]) - goal).square().mean()

    @torch.no_grad()
    def total() -> float:
        return sum(float(loss_of(index)) for index in range(len(student)))

    start = [p.detach().clone() for p in parameters]
    try:
        with input_bases(modules) as bases:
            before = total()
        optimizer = RotatedAdam(
            {"params": [p], "lr": rate, "basis": bases.get(id(p)) if settings.rotate else None}
            for p, rate in zip(parameters, rates, strict=True)
        )
        for step in range(settings.steps):
            if not order:
                order = torch.randperm(len(student), generator=generator).tolist()
            index = order.pop()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
            with torch.enable_grad():
                loss = loss_of(index)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        for p, flag in zip(parameters, wanted, strict=True):
            p.requires_grad_(flag)
            p.grad = None
    if not total() < before:  # the closed form was better, as where it is exact
        with torch.no_grad():
            for p, value in zip(parameters, start, strict=True):
                p.copy_(value)


def _sizes(modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> list[float]:
    """Root mean square of each parameter; a bias is as large as the scale of its norm.

    Adam moves every number by about its learning rate, so one rate for all would be a leap for the filters of a wide
    layer, which are small, and a crawl for others: at 0.001 it was good for ResNet-56 and ruin for VGG-16.
    """
    size = {id(p): float(p.detach().square().mean().sqrt()) for p in parameters}
    for module in modules:
        for layer in module.modules():
            weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
            if isinstance(weight, Tensor) and isinstance(bias, Tensor) and id(weight) in size and weight.dim() == 1:
                size[id(bias)] = max(size[id(bias)], size[id(weight)])
    return [size[id(p)] or 1e-3 for p in parameters]


def _finish(end: End, value: Tensor, of_teacher: bool = False) -> Tensor:
    """The output of the block as what follows sees it."""
    act: Any = end.act
    if end.site is not None:
        act = end.site.act
        norm: Any = end.site.norm
        if of_teacher and norm is not None:
            with torch.no_grad():
                affine = affine_of(norm, value.shape[1], value)
                value = norm(value) if affine is None else affine.on(value)
                inner = getattr(norm, "act", None)
                act = act if act is not None else inner if isinstance(inner, nn.Module) and affine is not None else None
        elif not of_teacher and end.site.act_name is not None:
            act = None  # the module has it inside
    return value if act is None else act(value.clone())
