"""The order of the training data: which batches make up an epoch, and which of them one optimizer step."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..common.random_state import RandomStream, seed_of
from ..inputs.sharing import shared_out
from ..inputs.sources import Source
from .training_recipe import Recipe

EPOCH_STEPS = 50  # with a budget of steps or minutes, an epoch passes over few images several times, until it has so many


@dataclass(frozen=True)
class StepBatches:
    """The batches of one optimizer step.

    Attributes:
        batches: as the loader gives them, of this process.
        waited: seconds that they took to come.
    """

    batches: list[object]
    waited: float


class EpochBatches:
    """The batches of each epoch in this process.

    Their order and augmentation follow from the recipe's seed and the epoch alone.

    Args:
        train: batches to train on.
        recipe: its seed, its batches of a step (``accumulate``), and whether its budget is one of epochs.

    Attributes:
        length: batches of an epoch; 0 where that is not known.
    """

    def __init__(self, train: Source, recipe: Recipe):
        self.loader = shared_out(train, recipe.seed, training=True)
        self.seed, self.accumulate = recipe.seed, recipe.accumulate
        length = len(train)
        several = length and recipe.epochs is None
        self.passes = max(1, math.ceil(EPOCH_STEPS * recipe.accumulate / length)) if several else 1
        self.length = length * self.passes

    def steps(self, epoch: int, skip: int) -> Iterator[StepBatches]:
        """The batches of an epoch, step by step.

        Args:
            epoch: its number, from 0.
            skip: how many batches to pass over: those that a run had before it was broken off.
        """
        batches: list[object] = []
        started = time.perf_counter()
        for batch in self._batches(epoch, skip):
            batches.append(batch)
            if len(batches) == self.accumulate:
                yield StepBatches(batches, time.perf_counter() - started)
                batches, started = [], time.perf_counter()
        if batches:
            yield StepBatches(batches, time.perf_counter() - started)

    def _batches(self, epoch: int, skip: int) -> Iterator[object]:
        """The batches of an epoch that are left. Random numbers that the loader draws come from a stream of each pass."""
        seen = 0
        for number in range(self.passes):
            stream = RandomStream(seed_of(self.seed, 1, epoch, number))
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(epoch * self.passes + number)
            with stream.active():
                batches = iter(self.loader)
            while True:
                with stream.active():
                    batch = next(batches, None)
                if batch is None:
                    break
                seen += 1
                if seen > skip:
                    yield batch
