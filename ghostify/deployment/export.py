"""export(): a network in the format of a runtime, compared with PyTorch before it is handed over."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from ..common.calls import run_checked
from ..common.checks import check_choice, check_has_weights, check_model, path_of, whole_number
from ..errors import ArgumentError, ArgumentTypeError, GhostifyError
from ..inputs.examples import one_input
from ..inputs.images import ImageData, as_calls
from .failure_reason import failure_reason
from .fold import for_inference
from .formats import FORMATS, Format, Run, absent_packages
from .output_check import check_outputs


def export(
    student: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    example_input: object = None,
    fold: bool = True,
    dynamic_batch: bool = True,
    int8: ImageData | None = None,
    max_images: int = 256,
) -> Path:
    """Write a network for a runtime, read it back there, and compare it with the student itself, hooks and all.

    Args:
        student: a converted network, or any other, in whatever mode; it is exported in evaluation mode.
        path: file to write, which appears only once the comparison went well. OpenVINO writes a ``.bin`` beside it.
        format: ``"onnx"``, ``"torch"`` (``torch.export``) or ``"openvino"``; None to tell by the suffix ``.onnx``, ``.pt2`` or
            ``.xml``.
        example_input: a tensor (N, C, H, W), or a shape such as ``(1, 3, 224, 224)``. Not needed for models of timm and
            torchvision, nor with ``int8``.
        fold: fold norms and channel orders first (:func:`ghostify.fold`).
        dynamic_batch: let the batch size be whatever it is at run time; False for exactly that of ``example_input``.
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
    check_has_weights("student", student)
    path = path_of("path", path)
    chosen = _chosen_format(path, format, int8 is not None)
    max_images = whole_number("max_images", max_images, 1)
    reference = for_inference(student, folded=False).cpu()
    images = None if int8 is None else [args[0] for args, _ in as_calls(int8, reference, max_images, 16)]
    given = images[0][:1] if images and example_input is None else one_input(student, example_input, "export")
    example = _example(student, given, dynamic_batch)
    for batch in images or []:
        if batch.shape[1:] != example.shape[1:]:
            raise ArgumentError(f"int8 has images {tuple(batch.shape[1:])}, and example_input has {tuple(example.shape[1:])}")
    if images is not None and not dynamic_batch:
        images = _batches_of(len(example), images)
    batches = _random_batches(example, len(given), dynamic_batch) if images is None else images
    for x in (example, *batches) if images is None else (example,):
        _check_takes(reference, x, len(given))
    model = for_inference(student, True, split=int8 is None, otherwise=example).cpu() if fold else reference
    with _written(path) as temporary:
        run = _write(model, temporary, chosen, example, dynamic_batch, images)
        check_outputs(reference, run, batches, chosen.name, int8=images is not None)
    return path


def _chosen_format(path: Path, name: str | None, int8: bool) -> Format:
    """The format of this name, or else of the path's suffix, checked for what it needs."""
    by_suffix = {format.suffix: format.name for format in FORMATS.values()}
    name = by_suffix.get(path.suffix) if name is None else name
    if name is None:
        raise ArgumentError(f"path {str(path)!r} ends in none of {', '.join(by_suffix)}: name it so, or give format=")
    check_choice("format", name, tuple(FORMATS))
    chosen = FORMATS[name]
    if path.suffix != chosen.suffix:
        raise ArgumentError(f"path {str(path)!r} must end in {chosen.suffix!r} for format={name!r}")
    if int8 and chosen.write_int8 is None:
        others = " or ".join(repr(format.name) for format in FORMATS.values() if format.write_int8 is not None)
        raise ArgumentError(f"int8 goes with format={others}, whose tools do it")
    absent = absent_packages([*chosen.needs, *(chosen.int8_needs if int8 else ())])
    if absent:
        raise ArgumentError(f"format={name!r} needs {' and '.join(absent)}: pip install 'ghostify[deploy]'")
    return chosen


def _example(model: nn.Module, given: Tensor, dynamic: bool) -> Tensor:
    """Random numbers of the shape that is given, two images of it for any batch size, of the type of the network's weights."""
    first = next(model.parameters(), None)
    shape = (2, *given.shape[1:]) if dynamic else tuple(given.shape)  # 1 would be taken for a constant
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(torch.float32 if first is None else first.dtype)


def _batches_of(size: int, images: list[Tensor]) -> list[Tensor]:
    """The images in batches of the size that a file takes; what is left over is not used."""
    batches = [batch for batch in torch.cat(images).split(size) if len(batch) == size]
    if not batches:
        raise ArgumentError(f"int8 has {sum(map(len, images))} images, fewer than the {size} of one batch")
    return batches


def _check_takes(model: nn.Module, x: Tensor, given: int) -> None:
    """Check that a network takes an input, and say so where it takes batches of ``given`` images alone."""
    try:
        with torch.no_grad():
            run_checked(model, (x,), {})
    except ArgumentError as error:
        if len(x) == given:
            raise
        _check_takes(model, x[:1].expand(given, *x.shape[1:]), given)
        raise ArgumentError(
            f"{type(model).__name__} takes batches of {given} and not of {len(x)}: export it with dynamic_batch=False"
        ) from error


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


def _write(model: nn.Module, path: Path, format: Format, example: Tensor, dynamic: bool, images: list[Tensor] | None) -> Run:
    """Write the file, with 8 bits where there are images, and read it back into its runtime."""
    try:
        if images is None or format.write_int8 is None:
            format.write(model, path, example, dynamic)
        else:
            format.write_int8(model, path, example, dynamic, images)
        return format.read(path, torch.get_num_threads())
    except (GhostifyError, OSError):
        raise
    except Exception as error:  # each exporter has its own kinds
        reason = _odd_output(model, example) or failure_reason(error) + _scripted_part(model)
        raise GhostifyError(f"{type(model).__name__} can't be exported as {format.name}: {reason}") from error


@torch.no_grad()
def _odd_output(model: nn.Module, example: Tensor) -> str:
    """A sentence on the first output that is a text or an object of another kind; empty where there is none."""
    for place, leaf in tree_flatten_with_path(model(example))[0]:
        if not isinstance(leaf, (Tensor, int, float, type(None))):
            return f"its output{keystr(place)} is a {type(leaf).__name__}, not a tensor"
    return ""


def _scripted_part(model: nn.Module) -> str:
    """A remark on the first part that is TorchScript; empty where there is none."""
    scripted = (name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule))
    name = next(scripted, None)
    return "" if name is None else f" (its part {name!r} is TorchScript, which may be why: put the Python module in its place)"


def _random_batches(example: Tensor, given: int, dynamic: bool) -> list[Tensor]:
    """Inputs to compare outputs on: of the batch size that is given, and where the file takes any, of another one."""
    generator = torch.Generator().manual_seed(1)
    sizes = (given, 3 if given == 1 else 1) if dynamic else (len(example),)
    return [torch.randn(size, *example.shape[1:], generator=generator).to(example) for size in sizes]
