"""Streamed second moments, and the ridge regressions that they solve."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..errors import ArgumentError
from ..layers.norm_affine import set_norm

NARROW = 512  # features up to which products are taken in float64
WIDEST = 9216  # unknowns of one filter; the normal equations of more would take over 0.7 GB


@dataclass(frozen=True)
class Solution:
    """Outputs as ``features @ weights + shift``: weights (G, D, K) and shift (G, K)."""

    weights: Tensor
    shift: Tensor


@dataclass
class Moments:
    """Sums over positions, in float64: of features (G, D), of targets (G, K), and of their products; G independent problems.

    Batches are added one at a time; the size does not depend on how many there are.
    """

    xx: Tensor  # (G, D, D)
    xy: Tensor  # (G, D, K)
    x: Tensor  # (G, D)
    y: Tensor  # (G, K)
    yy: Tensor  # (G, K)
    intercept: bool = True
    count: int = 0

    @classmethod
    def zeros(cls, groups: int, features: int, targets: int, device: torch.device, intercept: bool = True) -> "Moments":
        shapes = ((features, features), (features, targets), (features,), (targets,), (targets,))
        xx, xy, x, y, yy = (torch.zeros(groups, *shape, dtype=torch.float64, device=device) for shape in shapes)
        return cls(xx, xy, x, y, yy, intercept)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """``features`` (G, P, D) and ``targets`` (G, P, K) of P positions.

        Products of very wide features are taken in their own precision and summed in float64: twice as fast, and the ridge
        is far above what it rounds off.
        """
        if features.shape[2] <= NARROW:
            features = features.double()
        targets = targets.to(features)
        self.xx += features.mT @ features
        self.xy += features.mT @ targets
        self.x += features.sum(1, dtype=torch.float64)
        self.y += targets.sum(1, dtype=torch.float64)
        self.yy += targets.double().square().sum(1)
        self.count += features.shape[1]

    @property
    def mean_x(self) -> Tensor:
        return self.x / self.count

    @property
    def mean_y(self) -> Tensor:
        return self.y / self.count

    def covariance(self) -> Tensor:
        """(G, D, D) of the features, about their mean where the regression has an intercept."""
        centre = self.mean_x[:, :, None] * self.mean_x[:, None]
        return self.xx / self.count - (centre if self.intercept else 0)

    def cross(self) -> Tensor:
        """(G, D, K) between features and targets."""
        centre = self.mean_x[:, :, None] * self.mean_y[:, None]
        return self.xy / self.count - (centre if self.intercept else 0)

    def of_targets(self, targets: Tensor) -> "Moments":
        """The moments of some targets alone, given as (G, k) numbers."""
        columns = targets[:, None].expand(-1, self.xy.shape[1], -1)
        y, yy = self.y.gather(1, targets), self.yy.gather(1, targets)
        return Moments(self.xx, self.xy.gather(2, columns), self.x, y, yy, self.intercept, self.count)

    def variance(self) -> Tensor:
        """(G, K) of the targets."""
        return (self.yy / self.count - self.mean_y**2).clamp_min(0)

    def solve(self, ridge: float, prior: Tensor | None = None) -> Tensor:
        """Weights (G, D, K) of the ridge regression.

        Args:
            ridge: relative to the mean variance of a feature.
            prior: (G, D, K) what the ridge pulls towards; zero if None.
        """
        return self.ridge(ridge)(self.cross(), prior)

    def ridge(self, ridge: float) -> "Ridge":
        """The regression for many right-hand sides: factored once."""
        covariance = self.covariance()
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1)
        dead = scale <= 1e-12 * (self.xx.diagonal(dim1=1, dim2=2).mean(1) / self.count)  # constant features explain nothing
        strength = torch.where(dead, 1.0, ridge * scale)[:, None, None]
        return Ridge(covariance, strength)


class Ridge:
    """(covariance + strength I)^-1 by Cholesky; where rounding has left it indefinite, with more strength until it is not.

    Args:
        covariance: (G, D, D); it is overwritten.
        strength: (G, 1, 1).
    """

    def __init__(self, covariance: Tensor, strength: Tensor):
        self.strength = strength
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        diagonal.add_(strength[:, 0])
        self.factor, failed = torch.linalg.cholesky_ex(covariance)
        while bool(failed.any()):
            if not bool(torch.isfinite(covariance).all()):
                raise ArgumentError("feature maps are not finite: with these weights and images the network overflows")
            more = torch.where(failed > 0, 9 * self.strength[:, 0, 0], 0)[:, None, None]
            diagonal.add_(more[:, 0])
            self.strength = self.strength + more
            self.factor, failed = torch.linalg.cholesky_ex(covariance)

    def __call__(self, right: Tensor, prior: Tensor | None = None) -> Tensor:
        """The weights (G, D, K) for cross moments ``right`` of that shape, pulled towards ``prior``."""
        return torch.cholesky_solve(right if prior is None else right + self.strength * prior, self.factor)


def leading_basis(system: Moments, weights: Tensor, rank: int) -> Tensor:
    """The directions among the outputs of one regression that hold most of what it predicts.

    Args:
        system: moments of one group.
        weights: (D, K) its solution.
        rank: how many directions.

    Returns:
        (K, rank), orthonormal.
    """
    gram = weights.mT @ system.covariance()[0] @ weights
    return torch.linalg.eigh((gram + gram.T) / 2).eigenvectors[:, -rank:]


def install_filters(conv: _ConvNd, norm: nn.Module | None, system: Moments, solution: Solution, length: Tensor) -> None:
    """Set a convolution and its norm to a solution, in place.

    Under a norm the filters get the length of the original's: any other length would be another learning rate later on.

    Args:
        conv: a convolution of any class.
        norm: the batch norm behind it; None where none is.
        system: moments that the solution was made from.
        solution: (groups, unknowns, channels) and (groups, channels).
        length: (channels,) of the original filters.
    """
    weights, shift = solution.weights.mT.reshape(conv.weight.shape), solution.shift.flatten()
    if norm is None:
        conv.weight.copy_(weights)
        if conv.bias is not None:
            conv.bias.copy_(shift)
        return
    variance = ((system.covariance() @ solution.weights) * solution.weights).sum(1).flatten()
    mean = (system.mean_x[:, None] @ solution.weights)[:, 0].flatten()
    solved = weights.flatten(1).norm(dim=1)
    scale = torch.where((length > 1e-12) & (solved > 1e-12), length.double() / solved, 1.0)  # a dead channel stays dead
    conv.weight.copy_(weights * scale.view(-1, *[1] * (weights.dim() - 1)))
    bias = getattr(conv, "bias", None)
    if bias is not None:
        bias.zero_()
    set_norm(norm, 1 / scale, shift + mean, mean * scale, variance.clamp_min(0) * scale**2)
