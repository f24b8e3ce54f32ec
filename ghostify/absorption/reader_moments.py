"""Second moments of what a layer reads, streamed over the images."""

import torch
from torch import Tensor

from .positions import position_budget, sample_positions
from .reader_layer import ReaderLayer
from .regression import NARROW, WIDEST


class ReaderMoments:
    """Second moments of the patches of a layer, in float64; their size does not depend on the number of images.

    The unknowns of a filter are the taps of all maps, S = 1 block of them. Where these are more than ``widest``, each tap is a
    block of its own, S = T: the moments of the maps are averaged over the taps. That takes the values of a map at different
    taps as uncorrelated, and alike in what they share with other maps; what the layer loses is then the sum over its taps.

    Args:
        reader: the layer.
        images: of all batches together, about.
        seed: of the positions that are sampled.
        intercept: whether moments are about the mean.
        widest: unknowns of one filter up to which taps are told apart.

    Attributes:
        blocks: S.
        unknowns: U, numbers of a filter in one block.
    """

    def __init__(self, reader: ReaderLayer, images: int, seed: int, intercept: bool, widest: int = WIDEST):
        self.reader, self.images, self.seed, self.intercept = reader, images, seed, intercept
        self.by_tap = reader.maps * reader.taps > widest
        self.blocks = reader.taps if self.by_tap else 1
        self.unknowns = reader.maps if self.by_tap else reader.maps * reader.taps
        device = reader.layer.weight.device
        groups, blocks, unknowns = reader.groups, self.blocks, self.unknowns
        self._products = torch.zeros(groups, unknowns, unknowns, dtype=torch.float64, device=device)
        self._sums = torch.zeros(groups, blocks, unknowns, dtype=torch.float64, device=device)
        self._centre: Tensor | None = None  # of the first patches: moments about it lose fewer digits than about zero
        self.count = 0
        self._batches = 0

    def add(self, inputs: Tensor) -> None:
        """One batch of the layer's input, at all positions or a sample of them."""
        budget = -(-position_budget(self.unknowns) // self.blocks)
        places = self.reader.places(inputs)
        positions = sample_positions(places, budget, self.images, self.seed, self._batches, inputs.device)
        self._batches += 1
        for patches in self.reader.patches(inputs, positions):
            self._add(patches.permute(1, 3, 0, 2) if self.by_tap else patches.flatten(2).movedim(1, 0)[:, None])

    def _add(self, features: Tensor) -> None:
        """(G, S, P, U) of P positions."""
        if self._centre is None:
            centre = features.mean(2, dtype=torch.float64)
            self._centre = (centre if self.intercept else torch.zeros_like(centre)).to(features.dtype)
        features = features - self._centre[:, :, None]
        if self.unknowns <= NARROW:
            features = features.double()
        for block in features.unbind(1):  # blocks one by one: batched products of few rows are slow
            self._products += block.mT @ block
        self._sums += features.sum(2, dtype=torch.float64)
        self.count += features.shape[2]

    @property
    def samples(self) -> int:
        """Rows of the regression."""
        return self.count * self.blocks

    def mean(self) -> Tensor:
        """(G, S, U) of the patches."""
        assert self._centre is not None
        return self._sums / self.count + self._centre

    def covariance(self) -> Tensor:
        """(G, U, U), about the mean where there is an intercept, averaged over blocks."""
        moments = self._products / self.samples
        if self.intercept:
            mean = self._sums / self.count
            moments -= mean.mT @ mean / self.blocks
        return moments
