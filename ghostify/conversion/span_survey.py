"""Images as a user gives them, and the one pass of them through the original that tells what its spans lose."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..absorption.output_moments import OutputMoments, output_moments
from ..absorption.survey import SurveySettings, survey_spans
from ..common.buffers import kept_buffers
from ..common.calls import Arguments, PositionalArguments
from ..common.copying import copy_shared
from ..common.progress import site_bar
from ..common.random_state import without_caller_modes
from ..common.spill import SpilledList
from ..graph.spans import Span
from ..graph.tracing import Part
from ..inputs.image_range import range_warning
from ..inputs.images import ImageData, as_calls, peek
from .span_losses import SpanLosses, completed

IMAGES = 256  # are read at most, unless a user says otherwise

BATCH = 32  # images at a time, unless a user says otherwise

MEMORY = 512 << 20  # bytes of images held; what is above goes to a temporary file


@dataclass(frozen=True)
class HeldImages:
    """The images of a survey.

    Attributes:
        original: the model that they are run through, in evaluation mode; it shares the tensors of the user's.
        calls: the arguments of a forward pass for each batch.
        warning: what should be known of the range of the images; None where nothing is.
    """

    original: nn.Module
    calls: SpilledList[Arguments]
    warning: str | None

    @property
    def example(self) -> PositionalArguments:
        """The arguments of a forward pass of one image."""
        return tuple(images[:1] for images in self.calls[0][0])


@contextmanager
def held_images(model: nn.Module, images: ImageData, max_images: int = IMAGES, batch_size: int = BATCH) -> Iterator[HeldImages]:
    """The images, read and checked, until the block ends; autocast and inference mode of the caller are off in it.

    Args:
        model: the original; it is not changed.
        images: as for :func:`ghostify.calibrate`.
        max_images: images beyond this many are not read.
        batch_size: images at a time.

    Raises:
        ArgumentError, ArgumentTypeError: images that can't be used.
    """
    with without_caller_modes(next(model.parameters()).device), torch.no_grad():
        original = copy_shared(model).eval()
        first, batches = peek(as_calls(images, original, max_images, batch_size))
        with kept_buffers(original):
            warning = range_warning(original, first)
        with SpilledList(batches, MEMORY) as calls:
            yield HeldImages(original, calls, warning)


def losses_by_images(
    held: HeldImages, spans: Sequence[Span], parts: Sequence[Part], seed: int = 0, progress: bool = False
) -> SpanLosses:
    """What each of some free spans loses at every number of channels; spans that no image reaches are left out.

    Args:
        held: the images.
        spans: of the model.
        parts: of the model that trace.
        seed: of the positions that wide layers sample.
        progress: whether to show a progress bar.
    """
    settings = SurveySettings(seed=seed)
    with site_bar("surveying", len(spans), progress) as advance, kept_buffers(held.original):
        survey = survey_spans(held.original, spans, held.calls, parts=parts, settings=settings, on_span=advance)
    return {name: completed(one.elimination.losses.numpy()) for name, one in survey.spans.items()}


def moments_by_images(held: HeldImages, names: Sequence[str], parts: Sequence[Part]) -> dict[str, OutputMoments]:
    """How the outputs of some convolutions vary together; those that no image reaches are left out.

    Args:
        held: the images.
        names: qualified names of the convolutions.
        parts: of the model that trace.
    """
    with kept_buffers(held.original):
        return output_moments(held.original, names, held.calls, parts, MEMORY) if names else {}
