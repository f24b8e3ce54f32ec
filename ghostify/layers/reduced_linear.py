"""ReducedLinear: a fully connected layer as a product of two thin ones."""

from typing import Any

import torch
from torch import Tensor, nn

from ..common.pickling import named_by_package
from ..errors import ArgumentError, ArgumentTypeError
from .absent_weight import AbsentWeight
from .ratios import check_ratio


@named_by_package
class ReducedLinear(nn.Module):
    """A fully connected layer as a product of two thin ones: in_features -> rank -> out_features.

    Args:
        in_features, out_features: the numbers of inputs and outputs, as of ``nn.Linear``.
        rank: width between the two.
        bias: whether the second has a bias.
        device, dtype: where the parameters lie, and their type.

    Shape:
        input (*, in_features); output (*, out_features).

    Raises:
        ArgumentError: a rank below 1 or above ``min(in_features, out_features)``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(rank, int) or not 1 <= rank <= min(in_features, out_features):
            raise ArgumentError(f"rank must be a whole number from 1 to {min(in_features, out_features)}, not {rank!r}")
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.reduce = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.expand = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x))

    def __getattr__(self, name: str) -> Any:
        """
        Raises:
            AttributeError: there is no such attribute.
        """
        if name == "weight" and vars(self).get("tells_type"):
            return AbsentWeight.like(self.expand.weight, (self.out_features, self.in_features))
        return super().__getattr__(name)

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int | None = None, ratio: float | None = None) -> "ReducedLinear":
        """The best approximation of ``linear`` at a rank, by singular value decomposition (Eckart and Young, 1936).

        Args:
            linear: the layer; it is not changed.
            rank: width between the two factors; or
            ratio: how many times fewer weights, any number > 1 (rank = in * out / (in + out) / ratio, at least 1).

        Raises:
            ArgumentError: neither or both of ``rank`` and ``ratio``, or one that is out of range.
        """
        if not isinstance(linear, nn.Linear):
            raise ArgumentTypeError(f"linear must be a torch.nn.Linear, not {type(linear).__name__}")
        if (rank is None) == (ratio is None):
            raise ArgumentError("give either rank or ratio to ReducedLinear.from_linear, and not both")
        if ratio is not None:
            rank = reduced_rank(linear.in_features, linear.out_features, check_ratio(ratio))
        weight, bias = linear.weight, linear.bias
        with torch.device("meta"):
            self = cls(
                linear.in_features, linear.out_features, 0 if rank is None else rank, bias is not None, dtype=weight.dtype
            )
        first, second = _factors(weight.detach(), self.rank)
        self.reduce.weight = nn.Parameter(first.to(weight), weight.requires_grad)
        self.expand.weight = nn.Parameter(second.to(weight), weight.requires_grad)
        if bias is not None:
            self.expand.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
        return self.train(linear.training)


def reduced_rank(in_features: int, out_features: int, ratio: float) -> int:
    """The rank at which a product of two layers has ``ratio`` times fewer weights than one layer, rounded down; at least 1."""
    return max(1, int(in_features * out_features / (in_features + out_features) / ratio))


def _factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(rank, in) and (out, rank) whose product is the best approximation of ``weight`` (out, in)."""
    if weight.is_meta:
        return weight.new_empty(rank, weight.shape[1]), weight.new_empty(weight.shape[0], rank)
    # singular vectors of the short side are eigenvectors of its Gram matrix: far cheaper than a full SVD of a wide layer
    w = weight.double() if min(weight.shape) <= 1024 else weight.float()
    tall = w.shape[0] > w.shape[1]
    gram = (w.T @ w if tall else w @ w.T).double()  # eigh of a large float32 matrix fails in some versions of MKL
    basis = torch.linalg.eigh(gram).eigenvectors[:, -rank:].flip(1).to(w)
    if tall:
        return basis.T, w @ basis
    return basis.T @ w, basis
