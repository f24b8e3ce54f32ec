"""What each span loses at every number of channels that stay: from images, from a sensitivity, or guessed from weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from ..absorption.by_weights import eliminate_by_weights
from ..graph.sites import Site
from ..graph.spans import Span
from .sensitivity_table import Sensitivity

SpanLosses = Mapping[str, np.ndarray]
"""For each span, by its name, (n + 1,) what 0 to n channels lose; infinite where nothing is known."""


def completed(losses: np.ndarray) -> np.ndarray:
    """Losses for every number of channels from the least of which one is known.

    Between known ones they are interpolated. They never fall as channels go, which noise and steps of several channels could
    make them seem, and all channels lose nothing.

    Args:
        losses: (n + 1,) infinite where not known.
    """
    known = np.flatnonzero(np.isfinite(losses))
    counts = np.arange(len(losses))
    between = np.interp(counts, known, np.maximum(losses[known] - losses[-1], 0))
    growing = np.maximum.accumulate(between[::-1])[::-1]
    return np.where(counts < known[0], np.inf, growing)


def losses_by_weights(model: nn.Module, spans: Sequence[Span], sites: Sequence[Site]) -> SpanLosses:
    """A guess from weights and norms alone, were the inputs of layers white noise (:mod:`ghostify.absorption.by_weights`).

    Args:
        model: the original.
        spans: of which some are free.
        sites: the layers of the model.
    """
    modules, by_name = dict(model.named_modules(remove_duplicate=False)), {site.name: site for site in sites}
    free = [span for span in spans if not span.reason]
    return {span.makers[0]: completed(eliminate_by_weights(span, by_name, modules).losses.numpy()) for span in free}


def losses_of_table(table: Sensitivity) -> SpanLosses:
    """The losses that a sensitivity of one pass holds."""
    known = {}
    for curve in table.curves:
        losses = np.full(curve.channels + 1, np.inf)
        losses[list(curve.counts)] = curve.losses
        known[curve.name] = completed(losses)
    return known
