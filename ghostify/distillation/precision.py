"""The precision in which a network computes while it is trained."""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

log = logging.getLogger(__name__)

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which operations on the device compute in ``precision``: ``"fp32"``, ``"bf16"`` or ``"fp16"``."""
    dtype = AUTOCAST_TYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def warn_if_emulated(precision: str, device: torch.device) -> None:
    """Log a warning where the device is a processor that has no arithmetic of this precision."""
    if device.type == "cpu" and not cpu_computes_in(precision):
        log.warning("this processor has no %s arithmetic: fp32 is many times faster here", precision)


def cpu_computes_in(precision: str) -> bool:
    """Whether the processor has arithmetic of this precision; it is emulated otherwise, 17 times slower on one with AVX2."""
    if precision == "fp32":
        return True
    mkldnn = torch.ops.mkldnn
    supported: bool = mkldnn._is_mkldnn_bf16_supported() if precision == "bf16" else mkldnn._is_mkldnn_fp16_supported()
    return supported
