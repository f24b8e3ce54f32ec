"""How the outputs of layers vary together on images: what tells how well some of them follow from others."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from ..common.calls import Arguments
from ..graph.tracing import Part
from ..graph.usage import Usage
from .network_walk import NetworkWalk, Place
from .reader_output import output_of, variance_of


@dataclass(frozen=True)
class OutputMoments:
    """Attributes:
    covariance: (n, n) of a layer's outputs over images and places, behind the norm that follows, float64; relative to the
        variance of the output of the layer's block, summed over channels, the unit of the losses of spans.
    """

    covariance: Tensor

    def pointwise_loss(self) -> Tensor:
        """(n + 1,) what outputs lose that are linear in 0 to n of them: the sum of the n - m smallest eigenvalues for m."""
        eigenvalues = torch.linalg.eigvalsh(self.covariance).clamp_min(0)
        return torch.cat([eigenvalues.new_zeros(1), eigenvalues.cumsum(0)]).flip(0)

    def source_costs(self) -> Tensor:
        """(n, n) what is lost of output j where it is a multiple of output i."""
        variance = self.covariance.diagonal()
        explained = self.covariance.square() / variance.clamp_min(torch.finfo(torch.float64).tiny)
        return (variance[:, None] - explained).clamp_min(0)


@torch.no_grad()
def output_moments(
    model: nn.Module, names: Collection[str], calls: Collection[Arguments], parts: Sequence[Part], memory: int
) -> dict[str, OutputMoments]:
    """The moments of the outputs of some convolutions, by their names; those that no image reaches are left out.

    Args:
        model: the original, in evaluation mode; it is not changed.
        names: qualified names of convolutions.
        calls: the arguments of a forward pass for each batch.
        parts: of the network by :func:`ghostify.graph.find_sites.trace_layers`.
        memory: bytes of feature maps held; what is above goes to a temporary file.
    """
    gathered = _Outputs(Usage(model, parts))
    NetworkWalk(model, parts, set(names), gathered, memory).run(calls)
    return gathered.moments


@dataclass
class _Outputs:
    """What a walk has gathered so far."""

    usage: Usage
    moments: dict[str, OutputMoments] = field(default_factory=dict)

    def looks_at(self, place: Place) -> list[fx.Node]:
        """The output of the layer, and that of its block."""
        return [place.node, output_of(place, self.usage).block]

    def visit(self, place: Place) -> None:
        """Gather the covariance of a layer's outputs, and the variance of its block's."""
        output = output_of(place, self.usage)
        n = len(output.scale)
        count, mean, scatter = 0, torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
        for (maps,) in place.run.run([place.node], keep=[output.block]):
            if not maps.numel():
                continue
            rows = maps.movedim(-_dimensions(self.usage.modules[place.name]) - 1, 0).flatten(1)
            rows = rows if rows.dtype == torch.float64 else rows.float()
            centre = rows.mean(1, keepdim=True)
            apart, total = centre[:, 0].double().cpu() - mean, count + rows.shape[1]
            centred = rows - centre
            scatter += (centred @ centred.T).double().cpu() + apart.outer(apart) * (count * rows.shape[1] / total)
            mean += apart * (rows.shape[1] / total)
            count = total
        if not count:
            return
        variance = variance_of((value for (value,) in place.run.run([output.block])), n, last=False)
        scale = output.scale.cpu()
        share = scale[:, None] * scale / (count * variance) if variance > 0 else torch.zeros_like(scatter)
        self.moments[place.name] = OutputMoments(scatter * share)


def _dimensions(conv: nn.Module) -> int:
    """How many dimensions of its maps a convolution moves over."""
    return len(getattr(conv, "kernel_size", ()))
