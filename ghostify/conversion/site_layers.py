"""The layers of a site by themselves, and the input that they see."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..common.calls import PositionalArguments, forward_hooks
from ..graph.sites import Site


@torch.no_grad()
def inputs_of(model: nn.Module, names: Sequence[str], arguments: PositionalArguments) -> dict[str, Tensor]:
    """Noise of the shape of each layer's input, by the layer's name. A layer that does not run has none.

    Args:
        model: the network, in evaluation mode.
        names: qualified names of the layers.
        arguments: arguments of a forward pass of the network.
    """
    noise: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            noise[name] = torch.randn_like(inputs[0])

        return hook

    with forward_hooks(before=((model.get_submodule(name), note(name)) for name in names)):
        model(*arguments)
    return noise


def layers_of(site: Site) -> nn.Sequential:
    """The layers of a site that a Ghost module stands in for: the convolution, and the norm and the activation after it."""
    layers = [site.module, site.norm if site.norm_name else None, site.act if site.act_name else None]
    return nn.Sequential(*(layer for layer in layers if layer is not None))
