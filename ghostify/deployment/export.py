"""export(): a network in the format of a runtime, compared with PyTorch before it is handed over."""

import copy
import importlib.util
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import run_checked
from ..common.checks import check_choice, check_model, path_of, whole_number
from ..errors import ArgumentError, ArgumentTypeError, GhostifyError
from ..inputs.examples import one_input
from ..inputs.images import as_calls
from .fold import for_inference
from .formats import (
    Run,
    exported_program,
    onnx_session,
    openvino_int8,
    openvino_request,
    tensors_of,
    to_openvino,
    write_onnx,
    write_onnx_int8,
)

log = logging.getLogger(__name__)


FORMATS = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}


NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": (), "openvino": ("openvino",)}


TOLERANCE = 1e-3  # of the largest output: runtimes sum in another order


ROUNDINGS = 4  # or so many times what the network itself loses to float32: some make much of little


INT8_TOLERANCE = 0.3  # of the outputs' length


def export(
    student: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    example_input: Any = None,
    fold: bool = True,
    dynamic_batch: bool = True,
    int8: Any = None,
    max_images: int = 256,
) -> Path:
    """Write a network for a runtime, read it back there, and compare.

    Args:
        student: a converted network, or any other, in whatever mode; it is exported in evaluation mode.
        path: file to write, which appears only once the comparison went well. OpenVINO writes a ``.bin`` beside it.
        format: ``"onnx"``, ``"torch"`` (``torch.export``) or ``"openvino"``; None to tell by the suffix ``.onnx``, ``.pt2`` or
            ``.xml``.
        example_input: a tensor (N, C, H, W), or a shape such as ``(1, 3, 224, 224)``. Not needed for models of timm and
            torchvision, nor with ``int8``.
        fold: fold norms and channel orders first (:func:`ghostify.fold`).
        dynamic_batch: let the batch size be whatever it is at run time.
        int8: images, as for :func:`ghostify.calibrate`, to quantize weights and maps to 8 bits by, with the runtime's own tool:
            ONNX Runtime's, or NNCF for OpenVINO. Give the student itself then: :func:`ghostify.fold` makes sums of
            convolutions, which are faster, but which 8 bits round once more.
        max_images: of ``int8`` that are read.

    Returns:
        The path.

    Raises:
        ArgumentError, ArgumentTypeError: a format, path or input that can't be used; a package that is not installed.
        GhostifyError: the network can't be exported, or gives other outputs there; nothing is written then.

    Example:
        >>> ghostify.export(student, "resnet50_ghost.onnx")
    """
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a torch.nn.Module, not {type(student).__name__}")
    check_model(student)
    path = path_of("path", path)
    kind = _format(path, format, int8 is not None)
    max_images = whole_number("max_images", max_images, 1)
    model = for_inference(student, fold, split=int8 is None).cpu()
    images = None if int8 is None else [args[0] for args, _ in as_calls(int8, model, max_images, 16)]
    example = _example(student, images[0] if images and example_input is None else example_input)
    for batch in images or []:
        if batch.shape[1:] != example.shape[1:]:
            raise ArgumentError(f"int8 has images {tuple(batch.shape[1:])}, and example_input has {tuple(example.shape[1:])}")
    with torch.no_grad():
        run_checked(model, (example,), {})
    with _written(path) as temporary:
        run = _write(model, temporary, kind, example, dynamic_batch, images)
        _compare(model, run, example, dynamic_batch, kind, images)
    return path


def _format(path: Path, format: str | None, int8: bool) -> str:
    by_suffix = {suffix: kind for kind, suffix in FORMATS.items()}
    kind = by_suffix.get(path.suffix) if format is None else format
    if kind is None:
        raise ArgumentError(f"path {str(path)!r} ends in none of {', '.join(by_suffix)}: name it so, or give format=")
    check_choice("format", kind, tuple(FORMATS))
    if path.suffix != FORMATS[kind]:
        raise ArgumentError(f"path {str(path)!r} must end in {FORMATS[kind]!r} for format={kind!r}")
    if int8 and kind == "torch":
        raise ArgumentError("int8 goes with format='onnx' or 'openvino', whose tools do it")
    needs = [*NEEDS[kind], *(["nncf"] if int8 and kind == "openvino" else [])]
    absent = [package for package in needs if importlib.util.find_spec(package) is None]
    if absent:
        raise ArgumentError(f"format={kind!r} needs {' and '.join(absent)}: pip install 'ghostify[deploy]'")
    return kind


def _example(model: nn.Module, given: Any) -> Tensor:
    first = next(model.parameters(), None)
    shape = (2, *one_input(model, given, "export").shape[1:])  # 1 would be taken for a constant
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(torch.float32 if first is None else first.dtype)


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A file of the same name in a folder beside, which is moved here, with what lies beside it, if all goes well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}"))
    except OSError as error:
        raise ArgumentError(f"{str(path)!r} can't be written: {error.strerror}") from error
    try:
        yield folder / path.name
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):  # the file itself last
            os.replace(file, path.parent / file.name)
    except OSError as error:
        raise ArgumentError(f"{str(path)!r} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(model: nn.Module, path: Path, kind: str, example: Tensor, dynamic: bool, images: list[Tensor] | None) -> Run:
    """Write the file, and read it back into its runtime."""
    threads = torch.get_num_threads()
    try:
        if kind == "torch":
            buffer = io.BytesIO()  # torch's own writer ends the process where the disk is full
            torch.export.save(exported_program(model, example, dynamic), buffer)
            path.write_bytes(buffer.getbuffer())
            loaded = torch.export.load(path).module()
            return lambda x: tensors_of(loaded(x))
        if kind == "onnx":
            if images is None:
                write_onnx(model, path, example, dynamic)
            else:
                write_onnx_int8(model, path, example, dynamic, images)
            return onnx_session(path, threads)
        import openvino

        made = to_openvino(model, example, dynamic)
        if images is not None:
            made = openvino_int8(made, images)
        openvino.save_model(made, path, compress_to_fp16=False)
        return openvino_request(str(path), threads)
    except (GhostifyError, OSError):
        raise
    except Exception as error:  # each exporter has its own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise GhostifyError(f"{type(model).__name__} can't be exported as {kind}: {reason}") from error


def _compare(model: nn.Module, run: Run, example: Tensor, dynamic: bool, kind: str, images: list[Tensor] | None) -> None:
    """
    Raises:
        GhostifyError: the file gives other outputs.
    """
    generator = torch.Generator().manual_seed(1)
    sizes = (1, 3) if dynamic else (len(example),)
    inputs = [torch.randn(size, *example.shape[1:], generator=generator).to(example) for size in sizes]
    if images is not None:
        inputs = [batch.cpu() for batch in images]
    for x in inputs:
        with torch.no_grad():
            wanted = tensors_of(model(x))
        given = run(x)
        if [tuple(t.shape) for t in wanted] != [tuple(t.shape) for t in given]:
            raise GhostifyError(f"the {kind} file gives outputs of other shapes than PyTorch for a batch of {len(x)}")
        for one, other in zip(wanted, given, strict=True):
            if images is None:
                off, most = _largest_difference(one, other), TOLERANCE
            else:
                off, most = float((one.float() - other.float()).norm() / one.float().norm().clamp_min(1e-12)), INT8_TOLERANCE
            if not off <= most and images is None:
                most = max(most, ROUNDINGS * _rounding(model, x))
            if not off <= most:
                raise GhostifyError(
                    f"the {kind} file gives other outputs than PyTorch: {off:.2g} of their size, at most {most:g}"
                )


def _largest_difference(one: Tensor, other: Tensor) -> float:
    """Of the largest output."""
    return float((one.double() - other.double()).abs().max() / one.double().abs().max().clamp_min(1e-12))


@torch.no_grad()
def _rounding(model: nn.Module, x: Tensor) -> float:
    """How far the model is from itself in float64, of the largest output; 0 where it can't be told."""
    try:
        exact = tensors_of(copy.deepcopy(model).double()(x.double()))
    except Exception as error:  # a network's own code, which may know one type alone
        log.debug("%s does not run in float64: %s", type(model).__name__, error)
        return 0.0
    return max(_largest_difference(one, other) for one, other in zip(exact, tensors_of(model(x)), strict=True))
