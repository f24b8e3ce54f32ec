"""Sensitivities from one pass of images: what each span loses at every number of channels, all at once."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from ..common.tensors import checksum_of_values, checksum_of_weights
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.find_sites import trace_layers
from ..graph.network_spans import find_network_spans
from ..graph.spans import Span
from ..inputs.examples import running_input
from ..inputs.images import ImageData
from ..layers.ratios import intrinsic_channels
from .plan import nothing_to_convert
from .sensitivity_table import Header, LossCurve, Sensitivity, SiteSensitivity, check_header
from .settings import GhostConfig
from .span_survey import HeldImages, held_images, losses_by_images


def measure_in_one_pass(
    model: nn.Module,
    images: ImageData,
    config: GhostConfig,
    ratios: Sequence[float],
    max_images: int,
    batch_size: int,
    out: Path | None,
    progress: bool,
) -> Sensitivity:
    """What each free span loses, by :func:`ghostify.absorption.survey.survey_spans`. :func:`ghostify.sensitivity` explains.

    Args:
        config: settings of the conversion, of which the seed and the cheap operation are used.

    Raises:
        ArgumentError: images that can't be used, Ghost modules are asked about, or ``out`` holds another measurement.
        UnsupportedModelError: no span of the model is free.
    """
    if config.cheap not in ("auto", "absorbed"):
        raise ArgumentError(f"cheap={config.cheap!r} goes with method='site_by_site'")
    parts = trace_layers(model, running_input(model))
    spans = find_network_spans(model, parts)
    free = {span.makers[0]: span for span in spans if not span.reason}
    if not free:
        raise UnsupportedModelError(nothing_to_convert(model, [span.reason for span in spans]))
    with held_images(model, images, max_images, batch_size) as held:
        if held.warning is not None:
            warnings.warn(held.warning, stacklevel=3)  # for the line that calls sensitivity
        header = _header(model, held, config, tuple(ratios))
        if out is not None and out.exists():
            table = _read_table(out, header)
        else:
            losses = losses_by_images(held, list(free.values()), parts, config.seed, progress)
            table = Sensitivity(header, (), curves=tuple(_curve(name, losses[name]) for name in free if name in losses))
    rows = [row for curve in table.curves for row in _rows(curve, free[curve.name], table.header.ratios)]
    table = replace(table, rows=tuple(rows))
    if out is not None:
        table.save(out)
    return table


def _read_table(path: Path, header: Header) -> Sensitivity:
    """The table of an earlier call, with the ratios of this one as well.

    Raises:
        ArgumentError: the file holds another measurement, or none.
    """
    table = Sensitivity.load(path)
    check_header(table, header, path)
    return replace(table, header=replace(header, ratios=tuple(sorted({*table.header.ratios, *header.ratios}))))


def _header(model: nn.Module, held: HeldImages, config: GhostConfig, ratios: tuple[float, ...]) -> Header:
    images = [args[0] for args, _ in held.calls]
    return Header(
        model=type(model).__name__,
        images=sum(map(len, images)),
        ratios=ratios,
        cheap="absorbed",
        dw_size=config.dw_size,
        seed=config.seed,
        weights=checksum_of_weights(model),
        pixels=checksum_of_values(images),
        method="one_pass",
    )


def _curve(name: str, losses: np.ndarray) -> LossCurve:
    counts = np.flatnonzero(np.isfinite(losses))
    return LossCurve(name, "absorbed", len(losses) - 1, tuple(counts.tolist()), tuple(losses[counts].tolist()))


def _rows(curve: LossCurve, span: Span, ratios: Sequence[float]) -> list[SiteSensitivity]:
    """What a span loses at some ratios."""
    rows = []
    for ratio in ratios:
        kept = intrinsic_channels(span.channels, ratio, span.groups)
        loss = float(np.interp(kept, curve.counts, curve.losses))
        rows.append(SiteSensitivity(curve.name, ratio, kept, curve.cheap, loss, None))
    return rows
