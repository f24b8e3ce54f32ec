"""Adam in the eigenbasis of what each layer sees."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..common.calls import forward_hooks

MixingLayer = nn.Linear | _ConvNd


class RotatedAdam(torch.optim.Optimizer):
    """Adam whose steps are scaled along the principal axes of a layer's inputs and not along its channels.

    Channels of one map are alike, so that plain Adam creeps along what they share out. This is SOAP (Vyas et al., 2024,
    https://arxiv.org/abs/2409.11321) with one basis for each layer, of its input channels, computed once.

    Args:
        groups: each with ``params`` (one parameter), ``lr`` and ``basis``: orthonormal (channels, channels), or None for
            plain Adam.
        betas: decay of the mean gradient and of its mean square from step to step.
        eps: added to the root of the mean square.
    """

    def __init__(self, groups: Iterable[dict[str, object]], betas: tuple[float, float] = (0.9, 0.95), eps: float = 1e-8):
        super().__init__(list(groups), {"betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that stand in the parameters; there is no closure."""
        for group in self.param_groups:
            (parameter,), basis, (fast, slow) = group["params"], group["basis"], group["betas"]
            if parameter.grad is None:
                continue
            gradient = _turned(parameter.grad, basis)
            state = self.state[parameter]
            if not state:
                state.update(step=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
            state["step"] += 1
            state["mean"].lerp_(gradient, 1 - fast)
            state["square"].mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
            size = (state["square"] / (1 - slow ** state["step"])).sqrt_().add_(group["eps"])
            move = state["mean"] / (1 - fast ** state["step"]) / size
            parameter.sub_(_turned(move, None if basis is None else basis.T), alpha=group["lr"])


def _turned(values: Tensor, basis: Tensor | None) -> Tensor:
    """(K, C, *) with its channels in another basis."""
    return values if basis is None else torch.einsum("kc...,cd->kd...", values, basis)


@contextmanager
def input_bases(modules: Sequence[nn.Module]) -> Iterator[dict[int, Tensor]]:
    """Watch what layers see while this is open; afterwards the dict has their bases, by ``id`` of the weight.

    Grouped and depthwise convolutions have none: their channels don't meet.
    """
    moments: dict[int, Tensor] = {}
    bases: dict[int, Tensor] = {}

    def add(layer: MixingLayer, inputs: tuple[Tensor, ...]) -> None:
        axis = -1 if isinstance(layer, nn.Linear) else 1
        by_channel = inputs[0].detach().movedim(axis, 0).flatten(1)
        key = id(layer.weight)
        moments[key] = moments.get(key, 0) + (by_channel @ by_channel.T).double()

    layers = [layer for module in modules for layer in module.modules() if _mixes(layer)]
    with forward_hooks(before=((layer, add) for layer in layers)):
        yield bases
    for layer in layers:
        key = id(layer.weight)
        if key in moments:
            bases[key] = torch.linalg.eigh(moments[key]).eigenvectors.to(layer.weight)


def _mixes(layer: nn.Module) -> TypeGuard[MixingLayer]:
    """Whether a layer's filters see all its input channels."""
    if isinstance(layer, nn.Linear):
        return True
    return isinstance(layer, _ConvNd) and not layer.transposed and layer.groups == 1
