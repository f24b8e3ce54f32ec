"""How far a network's class scores are from the original's, on the same batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.calls import Arguments
from ..losses import main_output
from ..tasks.task import Outputs

Scores = list[Tensor | None]  # log-probabilities (rows, classes) of each batch; None where the model gives no class scores


@dataclass
class ScoreComparison:
    """Compares class scores with those of an original.

    Args:
        original: in evaluation mode.
        calls: the arguments of a forward pass for each batch.
        outputs: from what the model returns to its class scores, in a list.
        labels: of each batch; None without.
        original_scores: of each batch; computed when they are first needed.
    """

    original: nn.Module
    calls: Sequence[Arguments]
    outputs: Outputs
    labels: list[Tensor] | None
    original_scores: Scores | None = None

    def original_top1(self) -> float | None:
        """The share of the images that the original gets right; None without labels."""
        return self.compare(self._reference())[1]

    def scores_of(self, output: object) -> Tensor | None:
        """Log-probabilities (rows, classes) from what the model returned for a batch; None where it gives no class scores."""
        try:
            scores = self.outputs(output)[0]
        except TypeError:
            if self.outputs is not main_output:
                raise
            return None
        return scores.float().movedim(1, -1).flatten(0, -2).log_softmax(1)

    def scores_of_all(self, network: nn.Module) -> Scores:
        """The scores of a network for each batch."""
        return [self.scores_of(network(*args, **kwargs)) for args, kwargs in self.calls]

    def compare(self, scores: Scores) -> tuple[float | None, float | None]:
        """The Kullback-Leibler divergence from the original, in nats, mean over rows; and top-1.

        Either is None where it is not known.
        """
        reference = self._reference()
        if any(batch is None for batch in [*scores, *reference]):
            return None, None
        divergence, rows, right = 0.0, 0, 0
        for index, (p, q) in enumerate(zip(reference, scores, strict=True)):
            assert p is not None
            assert q is not None
            divergence += float((p.exp() * (p - q)).sum(dtype=torch.float64))
            rows += len(p)
            if self.labels is not None:
                right += int((q.argmax(1) == self.labels[index].to(q.device)).sum())
        return max(divergence / rows, 0.0), right / rows if self.labels is not None else None

    def _reference(self) -> Scores:
        if self.original_scores is None:
            self.original_scores = self.scores_of_all(self.original)
        return self.original_scores
