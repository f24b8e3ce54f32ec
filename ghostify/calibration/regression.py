"""Streamed second moments, and the ridge regressions that they solve."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from ..layers.norm_affine import set_norm

NARROW = 512  # features up to which products are taken in float64


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

    def variance(self) -> Tensor:
        """(G, K) of the targets."""
        return (self.yy / self.count - self.mean_y**2).clamp_min(0)

    def solve(self, ridge: float, prior: Tensor | None = None, cross: Tensor | None = None) -> Tensor:
        """Weights (G, D, K) of the ridge regression.

        Args:
            ridge: relative to the mean variance of a feature.
            prior: (G, D, K) what the ridge pulls towards; zero if None.
            cross: takes the place of :meth:`cross`.
        """
        return self.ridge(ridge)(self.cross() if cross is None else cross, prior)

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


def install_filters(conv: Any, norm: Any, system: Moments, weights: Tensor, shift: Tensor, length: Tensor) -> None:
    """Set a convolution and its norm to a solution of ``system``, (groups, unknowns, channels) and (groups, channels)."""
    variance = ((system.covariance() @ weights) * weights).sum(1).flatten()
    mean = (system.mean_x[:, None] @ weights)[:, 0].flatten()
    _install(conv, norm, weights.mT.reshape(conv.weight.shape), shift.flatten(), mean, variance, length)


def _install(conv: Any, norm: Any, weights: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, length: Tensor) -> None:
    """Set a convolution and its norm to a solution ``weights * patch + shift``.

    Under a norm the filters get the length of the original's: any other length would be another learning rate later on.

    Args:
        weights: of the shape of the convolution's weight; shift, mean and variance of ``weights * patch``: (channels,).
        length: (channels,) of the original filters.
    """
    if norm is None:
        conv.weight.copy_(weights)
        if conv.bias is not None:
            conv.bias.copy_(shift)
        return
    solved = weights.flatten(1).norm(dim=1)
    scale = torch.where((length > 1e-12) & (solved > 1e-12), length.double() / solved, 1.0)  # a dead channel stays dead
    conv.weight.copy_(weights * scale.view(-1, *[1] * (weights.dim() - 1)))
    if getattr(conv, "bias", None) is not None:
        conv.bias.zero_()
    set_norm(norm, 1 / scale, shift + mean, mean * scale, variance.clamp_min(0) * scale**2)
