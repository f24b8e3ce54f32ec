"""Gradient steps on one block at a time, towards the teacher's output of that block; no labels.

As in BRECQ (Li et al., ICLR 2021, https://arxiv.org/abs/2102.05426) and PRACTISE (Wang and Wu, CVPR 2023,
https://arxiv.org/abs/2202.03957), with the closed-form fit as the start and the converted prefix as the input.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ..graph.running import GraphRun
from ..graph.sites import Site
from ..layers.norm_affine import affine_of
from .rotated_adam import RotatedAdam, input_bases
from .settings import BlockSettings


@dataclass(frozen=True)
class End:
    """Where a block is complete.

    Attributes:
        student, teacher: the node in each graph.
        act: the activation to compare after, where the block ends with a sum.
        site: the site itself where the block ends with one and not with a sum.
        kept: the channels of the teacher's value that the student's has, where those are not all.
    """

    student: fx.Node
    teacher: fx.Node
    act: nn.Module | None
    site: Site | None = None
    kept: Tensor | None = None


def train_block(student: GraphRun, teacher: GraphRun, end: End, modules: Sequence[nn.Module], settings: BlockSettings) -> None:
    """Train the modules of a block in place; they stay as they are where that does not bring it closer to the teacher.

    Args:
        student: stands before the block.
        teacher: has run the block, and holds what it gives at its end.
        end: of the block.
        modules: of the student, to be trained.
        settings: of the steps.
    """
    block = _Block(student, teacher, end)
    parameters = [p for module in modules for p in module.parameters() if p.is_floating_point()]
    start = [p.detach().clone() for p in parameters]
    with _trainable(parameters):
        rates = [settings.lr * size for size in _sizes(modules, parameters)]
        with input_bases(modules) as bases:
            before = block.total_loss()
        optimizer = RotatedAdam(
            {"params": [p], "lr": rate, "basis": bases.get(id(p)) if settings.rotate else None}
            for p, rate in zip(parameters, rates, strict=True)
        )
        _descend(block, optimizer, rates, settings)
    if not block.total_loss() < before:  # the closed form was better, as where it is exact
        with torch.no_grad():
            for p, value in zip(parameters, start, strict=True):
                p.copy_(value)


class _Block:
    """One block of the student, and what the teacher gives at its end."""

    def __init__(self, student: GraphRun, teacher: GraphRun, end: End):
        self.student, self.teacher, self.end = student, teacher, end
        self.nodes = student.ancestors([end.student])

    def __len__(self) -> int:
        return len(self.student)

    def loss(self, index: int) -> Tensor:
        """Mean squared error of the block's output on one batch."""
        values = dict(self.student.batches[index])
        target = _teacher_output(self.end, self.teacher.batches[index][self.end.teacher.name])
        for node in self.nodes:
            values[node.name] = self.student.evaluate(node, values)
        return (_student_output(self.end, values[self.end.student.name]) - target).square().mean()

    @torch.no_grad()
    def total_loss(self) -> float:
        """The sum over all batches."""
        return sum(float(self.loss(index)) for index in range(len(self)))


@contextmanager
def _trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters get gradients while this is open; they have none afterwards."""
    flags = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p, flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)
            p.grad = None


def _descend(block: _Block, optimizer: RotatedAdam, rates: Sequence[float], settings: BlockSettings) -> None:
    """Gradient steps, each on one batch, at rates that fall to zero along a cosine; all batches pass before one comes again."""
    generator = torch.Generator().manual_seed(settings.seed)
    order: list[int] = []
    for step in range(settings.steps):
        if not order:
            order = torch.randperm(len(block), generator=generator).tolist()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / settings.steps)) / 2
        with torch.enable_grad():
            loss = block.loss(order.pop())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


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


def _student_output(end: End, value: Tensor) -> Tensor:
    """The output of the student's block as what follows sees it."""
    if end.site is None:
        return _activated(end.act, value)
    return _activated(end.site.act if end.site.act_name is None else None, value)  # else the module has it inside


def _teacher_output(end: End, value: Tensor) -> Tensor:
    """The output of the teacher's block as what follows sees it."""
    if end.kept is not None:
        value = value.index_select(1, end.kept.to(value.device))
    if end.site is None:
        return _activated(end.act, value)
    norm, act = end.site.norm, end.site.act
    if norm is None:
        return _activated(act, value)
    with torch.no_grad():
        affine = affine_of(norm, value.shape[1], value)
        value = norm(value) if affine is None else affine.on(value)
    inner = getattr(norm, "act", None)
    if act is None and affine is not None and isinstance(inner, nn.Module):
        act = inner
    return _activated(act, value)


def _activated(act: nn.Module | None, value: Tensor) -> Tensor:
    """The value after an activation, which may work in place on its input."""
    return value if act is None else act(value.clone())
