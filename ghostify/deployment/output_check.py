"""Whether a file gives the outputs that PyTorch gives."""

import copy
import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..errors import GhostifyError
from .failure_reason import failure_reason
from .formats import Run, tensors_of

log = logging.getLogger(__name__)


TOLERANCE = 1e-3  # of the largest output: runtimes sum in another order


ROUNDINGS = 4  # or so many times what the network itself loses to rounding, or numbers of its type are apart


INT8_TOLERANCE = 0.3  # of the outputs' length


def check_outputs(model: nn.Module, run: Run, batches: Iterable[Tensor], format: str, int8: bool) -> None:
    """Compare the outputs of a network and of the file that was written of it.

    Args:
        model: the network, in evaluation mode on the CPU.
        run: the file, loaded into its runtime.
        batches: inputs (N, C, H, W) to compare on.
        format: name of the format, for messages.
        int8: whether the file has weights and maps of 8 bits.

    Raises:
        GhostifyError: the file gives other outputs.
    """
    for x in batches:
        x = x.cpu()
        with torch.no_grad():
            expected = tensors_of(model(x))
        try:
            actual = run(x)
        except Exception as error:  # each runtime has its own kinds
            raise GhostifyError(f"the {format} file does not take a batch of {len(x)}: {failure_reason(error)}") from error
        if [tuple(t.shape) for t in expected] != [tuple(t.shape) for t in actual]:
            raise GhostifyError(f"the {format} file gives outputs of other shapes than PyTorch for a batch of {len(x)}")
        for one, other in zip(expected, actual, strict=True):
            difference = _relative_length(one, other) if int8 else _largest_difference(one, other)
            most = INT8_TOLERANCE if int8 else max(TOLERANCE, ROUNDINGS * _spacing(model, one))
            if not difference <= most and not int8:
                most = max(most, ROUNDINGS * _rounding(model, x))
            if not difference <= most:
                raise GhostifyError(
                    f"the {format} file gives other outputs than PyTorch: {difference:.2g} of their size, at most {most:g}"
                )


def _relative_length(one: Tensor, other: Tensor) -> float:
    """The length of the difference of two outputs, as a share of the first output's length."""
    return float((one.float() - other.float()).norm() / one.float().norm().clamp_min(1e-12))


def _largest_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two outputs, as a share of the first output's largest number."""
    return float((one.double() - other.double()).abs().max() / one.double().abs().max().clamp_min(1e-12))


def _spacing(model: nn.Module, output: Tensor) -> float:
    """The relative distance between neighbouring numbers of the shortest floating type that a network and its output have."""
    types = {tensor.dtype for tensor in (*model.parameters(), output) if tensor.is_floating_point()}
    return max((torch.finfo(kind).eps for kind in types), default=0.0)


@torch.no_grad()
def _rounding(model: nn.Module, x: Tensor) -> float:
    """How far the model is from itself in float64, of the largest output; 0 where it does not run in float64."""
    try:
        exact = tensors_of(copy.deepcopy(model).double()(x.double()))
    except Exception as error:  # a network's own code, which may know one type alone
        log.debug("%s does not run in float64: %s", type(model).__name__, error)
        return 0.0
    return max(_largest_difference(one, other) for one, other in zip(exact, tensors_of(model(x)), strict=True))
