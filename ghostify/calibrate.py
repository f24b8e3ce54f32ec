"""calibrate(): win accuracy back from a few unlabelled images, first in closed form, then by a few gradient steps a block."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import BlockSettings
from .calibration_report import CalibrationReport, SiteResult
from .checks import check_choice, whole_number
from .convert import check_model
from .copying import copy_shared, copy_swapped
from .errors import ArgumentError, ArgumentTypeError
from .images import as_calls, copied, peek
from .least_squares import Settings
from .modules import GhostModule, ReducedLinear
from .norms import run_checked, settle_norms
from .recipe import ConversionRecipe, attach_recipe, recipe_of
from .sites import DEPTHWISE, Site, find_sites
from .spool import Spool
from .walk import Outcome, Walk

METHODS = ("least_squares", "block")
VIEWS = 1024  # images and copies of them, beyond which none are made unless asked for
MEMORY = 512 << 20  # bytes of feature maps held; what is above goes to a temporary file


def calibrate(
    student: nn.Module,
    teacher: nn.Module,
    images: Any,
    *,
    method: str = "block",
    max_images: int = 1024,
    batch_size: int = 32,
    ridge: float = 3e-2,
    steps: int = 400,
    lr: float = 2e-2,
    copies: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CalibrationReport:
    """Win the student's accuracy back from a few unlabelled images, in place and without training it as a whole.

    Sites are taken in execution order. Each sees what the part of the student before it gives and is fitted to what the
    teacher gives there; where its output is added to a shortcut, to the teacher's sum less the student's shortcut, so that
    every block repairs what was lost before it. Convolutions and fully connected layers that were not converted are refitted
    as well, where a converted one lies before them.

    Args:
        student: what :func:`ghostify.convert` made of ``teacher``. It is changed only once all is done: an error or an
            interruption leaves it as it was.
        teacher: the original; it is not changed.
        images: preprocessed as for the model's evaluation. A tensor or array (N, C, H, W); or an iterable of batches, such
            as a DataLoader, whose labels are ignored; or the path of a folder of pictures (for models of timm and
            torchvision, which say how pictures become input), or of a .npy file.
        method: ``"least_squares"`` chooses the intrinsic channels and each ghost's source and solves ridge regressions for
            filters, cheap kernels and norms; ``"block"`` does that, and after each residual block (or site, where there
            are none) takes gradient steps towards the teacher's output of that block.
        max_images: images beyond this many are not read. A few hundred are enough; time grows linearly with them,
            memory does not: feature maps above 512 MB go to a temporary file.
        batch_size: images at a time, also of each gradient step; larger batches that a loader gives are split.
        ridge: pull towards the original filters, relative to the mean variance of a layer's inputs.
        steps: gradient steps for each block.
        lr: by which part of its size a parameter moves in the first of them (Adam, falling to zero along a cosine).
        copies: how often each image is used once more, mirrored and shifted by up to an eighth; 0 for images that mean
            something else then. None: with ``"block"`` up to three, as long as that makes 1,024 images at most, with
            ``"least_squares"`` none. Only (N, C, H, W) tensors are copied.
        seed: of the positions that wide layers sample and of the order of batches.
        progress: show a progress bar.

    Returns:
        What became of each site: its relative error before and after, and its reason where its warm start was kept.

    Raises:
        ArgumentError, ArgumentTypeError: a setting, an image or a teacher that can't be used; the message says why.

    Example:
        >>> student = ghostify.convert(teacher, ratio=2, cheap="auto")
        >>> print(ghostify.calibrate(student, teacher, images))
    """
    check_choice("method", method, METHODS)
    max_images, batch_size, steps = (
        whole_number(name, value, 1)
        for name, value in (("max_images", max_images), ("batch_size", batch_size), ("steps", steps))
    )
    copies = None if copies is None else whole_number("copies", copies, 0)
    seed = whole_number("seed", seed, 0) % 2**32
    if not (isinstance(ridge, (int, float)) and 0 < ridge < float("inf")):
        raise ArgumentError(f"ridge must be a number above 0, not {ridge!r}")
    if not (isinstance(lr, (int, float)) and 0 < lr < float("inf")):
        raise ArgumentError(f"lr must be a number above 0, not {lr!r}")
    settings = Settings(ridge=float(ridge), seed=seed)
    blocks = BlockSettings(steps, float(lr), seed=seed) if method == "block" else None
    return calibrate_with(student, teacher, images, settings, blocks, max_images, batch_size, progress, copies)


def calibrate_with(
    student: nn.Module,
    teacher: nn.Module,
    images: Any,
    settings: Settings,
    blocks: BlockSettings | None = None,
    max_images: int = 1024,
    batch_size: int = 32,
    progress: bool = False,
    copies: int | None = None,
) -> CalibrationReport:
    """:func:`calibrate` with every setting, those that only ablations change among them."""
    start = time.perf_counter()
    recipe, sites, dense = _check_pair(student, teacher)
    with _undisturbed(next(teacher.parameters()).device):
        original = copy_shared(teacher).eval()
        settings = replace(settings, auto=recipe.config.get("cheap") == "auto")
        first, calls = peek(as_calls(images, original, max_images, batch_size))
        notes = _check_range(original, first)
        work = copy_swapped(student, {}).eval()
        for parameter in work.parameters():
            parameter.requires_grad_(False)
        with Spool(calls, MEMORY) as held, _bar(len(sites), progress) as advance:
            images_seen = sum(_count(args) for args, _ in held)
            wanted = _default_copies(images_seen, blocks) if copies is None else copies
            if not _add_copies(held, wanted, settings.seed) and copies:
                notes.append("no copies were made: images are not one tensor (N, C, H, W)")
            walk = Walk(work, original, sites, dense, settings, MEMORY, advance, blocks)
            with torch.no_grad():
                walk.run(held)
                settle_norms(work, held)
        if images_seen < 32:
            notes.append(f"only {images_seen} image{'s' if images_seen > 1 else ''}: a few hundred give a far better student")
        results = [_result(walk.outcomes[name], recipe) for name in sites]
        _transplant(student, work, walk.outcomes, recipe)
        method = "least_squares" if blocks is None else "block"
        return CalibrationReport(
            type(student).__name__, method, images_seen, time.perf_counter() - start, tuple(results), tuple(notes)
        )


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Inference mode and autocast of the caller's are off, so that what is made can be trained; the random state stays."""
    cuda = [device] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False), torch.random.fork_rng(devices=cuda):
        yield


def _default_copies(images: int, blocks: BlockSettings | None) -> int:
    return 0 if blocks is None else max(0, min(3, VIEWS // images - 1))


def _add_copies(calls: Spool, copies: int, seed: int) -> bool:
    """Append copies of every batch; False where batches are not what can be copied."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(copies):
        for index in range(len(calls) // (number + 1)):
            made = copied(calls[index], number, generator)
            if made is None:
                return False
            calls.append(made)
    return True


def _check_pair(student: nn.Module, teacher: nn.Module) -> tuple[ConversionRecipe, dict[str, Site], dict[str, Site]]:
    """The student's recipe, the teacher's sites that it converted, and other layers that may be refitted.

    Raises:
        ArgumentError: one of them is not what it should be; the message says what differs.
    """
    for name, model in (("student", student), ("teacher", teacher)):
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"{name} must be a torch.nn.Module, not {type(model).__name__}")
        check_model(model)
        if any(p.is_meta for p in model.parameters()):
            raise ArgumentError(f"{name} is on the meta device and has no weights")
    recipe = recipe_of(student)
    if recipe is None or not any(r.converted for r in recipe.sites):
        raise ArgumentError("student must come from ghostify.convert: it carries no record of a conversion")
    if any(isinstance(m, (GhostModule, ReducedLinear)) for m in teacher.modules()):
        raise ArgumentError(
            "teacher must be the original network: it has Ghost modules itself (were the two given in the wrong order?)"
        )
    if student is teacher:
        raise ArgumentError("teacher must be the original network, not the student itself")
    kinds = [
        " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}))
        for model in (student, teacher)
    ]
    if kinds[0] != kinds[1]:
        raise ArgumentError(f"student is of {kinds[0]}, teacher of {kinds[1]}: give both in one precision")
    for name, parameter in teacher.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ArgumentError(f"teacher has NaN or infinite weights in {name!r}")
    devices = [{str(p.device) for p in model.parameters()} for model in (student, teacher)]
    if devices[0] != devices[1]:
        raise ArgumentError(f"student is on {', '.join(devices[0])}, teacher on {', '.join(devices[1])}")
    sites = {site.name: site for site in find_sites(teacher)}
    wanted = {}
    for record in recipe.sites:
        if not record.converted:
            continue
        site = sites.get(record.name)
        if site is None:
            raise ArgumentError(f"teacher is not the student's original: it has no layer {record.name!r}")
        module = site.module
        shape = tuple(
            getattr(module, a, getattr(module, b, None))
            for a, b in (("in_channels", "in_features"), ("out_channels", "out_features"))
        )
        kernel = tuple(getattr(module, "kernel_size", ()))
        if (*shape, kernel) != (record.in_channels, record.out_channels, record.kernel_size):
            raise ArgumentError(
                f"teacher is not the student's original: layer {record.name!r} is {shape[0]}→{shape[1]} {kernel}, "
                f"the student's was {record.in_channels}→{record.out_channels} {record.kernel_size}"
            )
        if (site.norm_name, site.act_name) != (record.norm, record.act):
            raise ArgumentError(f"teacher is not the student's original: layer {record.name!r} is followed by other layers")
        wanted[record.name] = site
    _check_weights(student, teacher, set(wanted))
    dense = {name: site for name, site in sites.items() if name not in wanted and site.reason in (None, DEPTHWISE)}
    return recipe, wanted, dense


def _check_weights(student: nn.Module, teacher: nn.Module, converted: set[str]) -> None:
    """Layers that were not converted must still have the teacher's weights or nearly so, some of them at least."""
    theirs = dict(teacher.named_parameters())
    same, other = 0, ""
    for name, parameter in student.named_parameters():
        twin = theirs.get(name)
        if twin is None or any(name.startswith(site + ".") for site in converted):
            continue
        if twin.shape != parameter.shape:
            raise ArgumentError(
                f"teacher is not the student's original: {name!r} is {tuple(twin.shape)}, "
                f"the student's {tuple(parameter.shape)}"
            )
        if parameter.dim() < 2:
            continue
        if _alike(twin, parameter):
            same += 1
        else:
            other = other or name
    if other and not same:
        raise ArgumentError(
            f"teacher is not the student's original: {other!r} has other weights, as has every layer that was not converted"
        )


def _alike(weight: Tensor, other: Tensor) -> bool:
    """The same but for what a calibration or a training changes: weights of another network do not correlate at all."""
    return float(torch.cosine_similarity(weight.detach().flatten().double(), other.detach().flatten().double(), dim=0)) > 0.5


@torch.no_grad()
def _check_range(teacher: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> list[str]:
    """Run the first batch, and compare what the teacher's first batch norm sees with what it saw in training."""
    seen: list[float] = []

    def note(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        if not seen and inputs[0].dim() > 2 and norm.running_var is not None and inputs[0].numel() > inputs[0].shape[1]:
            var = inputs[0].transpose(0, 1).flatten(1).float().var(1)
            live = norm.running_var > 1e-6 * norm.running_var.max()
            seen.append(float((var / norm.running_var)[live].median()))

    single: list[bool] = []

    def count(conv: Any, inputs: tuple[Tensor, ...]) -> None:
        single.extend(x.dim() < conv.weight.dim() for x in inputs[:1])  # none where it is called by keyword

    norms = [m for m in teacher.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    handles += [m.register_forward_pre_hook(count) for m in teacher.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    try:
        run_checked(teacher, *call)
    finally:
        for handle in handles:
            handle.remove()
    if single and all(single):  # a network may itself take maps one by one somewhere
        raise ArgumentError("images are not batches (N, C, H, W) but single images: wrap them in a DataLoader, or stack them")
    if not seen or 1 / 8 < seen[0] < 8:
        return []
    told = f"the teacher's first batch norm sees {seen[0]:.2g} times the variance that it saw in training"
    if not 1 / 200 < seen[0] < 200:
        raise ArgumentError(
            f"images have another range than the teacher was trained with: {told}; preprocess them as for evaluation"
        )
    warnings.warn(f"images may lack the model's preprocessing: {told}", stacklevel=4)
    return [f"images may lack the model's preprocessing: {told}"]


def _count(args: tuple[Any, ...]) -> int:
    return len(args[0]) if args and isinstance(args[0], (Tensor, list)) else 1


def _result(outcome: Outcome, recipe: ConversionRecipe) -> SiteResult:
    record = next(r for r in recipe.sites if r.name == outcome.name)
    return SiteResult(
        outcome.name, record.kind, outcome.cheap, outcome.before, outcome.after, "; ".join(outcome.notes), outcome.reason
    )


def _transplant(student: nn.Module, work: nn.Module, outcomes: dict[str, Outcome], recipe: ConversionRecipe) -> None:
    """Bring what ``work`` has become into ``student``, whose module and parameter objects stay where their shapes do."""
    fitted = [name for name, outcome in outcomes.items() if outcome.reason is None]
    before = {name: student.get_submodule(name) for name in fitted}
    state = {name: tensor.detach().clone() for name, tensor in student.state_dict().items()}
    try:
        for name in fitted:
            _replace_module(student, name, work.get_submodule(name))
        ours = dict(work.state_dict())
        for name, tensor in student.state_dict().items():
            tensor.copy_(ours[name])
        cheap = {name: outcome.cheap for name, outcome in outcomes.items() if outcome.cheap}
        records = (
            replace(r, cheap=cheap[r.name], dw_size=_dw_size(work.get_submodule(r.name))) if r.name in cheap else r
            for r in recipe.sites
        )
        attach_recipe(student, replace(recipe, sites=tuple(records)))
    except BaseException:  # an interruption included: all or nothing
        for name, module in before.items():
            parent, _, child = name.rpartition(".")
            setattr(student.get_submodule(parent), child, module)
        student.load_state_dict(state)
        attach_recipe(student, recipe)
        raise


def _dw_size(ghost: Any) -> int:
    return ghost.cheap_operation[0].kernel_size[0] if ghost.cheap == "depthwise" else 0


def _replace_module(student: nn.Module, name: str, new: nn.Module) -> None:
    old = student.get_submodule(name)
    shapes = [{key: p.shape for key, p in module.named_parameters()} for module in (old, new)]
    if shapes[0] == shapes[1]:
        old.load_state_dict(new.state_dict())
        return
    flag = next(old.parameters()).requires_grad
    made: Any = copy_swapped(new, {}).train(old.training)
    for parameter in made.parameters():
        parameter.requires_grad_(flag)
    parent, _, child = name.rpartition(".")
    setattr(student.get_submodule(parent), child, made)


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Any]:
    if not shown:
        yield lambda outcome: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("calibrating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda outcome: bar.update(task, advance=1, description=outcome.name)
