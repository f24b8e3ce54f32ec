"""calibrate(): win accuracy back from a few unlabelled images, first in closed form, then by a few gradient steps a block."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import check_choice, whole_number
from ..common.copying import copy_shared, copy_swapped
from ..common.progress import site_bar
from ..common.random_state import as_usual
from ..common.spill import SpilledList
from ..common.tensors import versioned
from ..errors import ArgumentError
from ..inputs.augment import copied
from ..inputs.images import as_calls, peek
from ..students.recipe import ConversionRecipe, attach_recipe
from ..surgery.swap import put
from .network_fit import NetworkFit
from .norms import settle_norms
from .pair_checks import check_pair, check_range
from .part_fit import FitState
from .report import CalibrationReport, Outcome, SiteResult
from .settings import BlockSettings, Settings

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
    align: bool = False,
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
        align: give layers whose outputs are added to each other the same intrinsic channels and sources, so that
            :func:`ghostify.fold` need not restore the order of channels after any of them. For students that are to be fast;
            it costs nothing where ghosts are pointwise, and accuracy where they are depthwise.
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
    settings = Settings(ridge=float(ridge), align=bool(align), seed=seed)
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
    recipe, sites, dense = check_pair(student, teacher)
    with as_usual(next(teacher.parameters()).device):
        original = copy_shared(teacher).eval()
        settings = replace(settings, auto=recipe.config.get("cheap") == "auto")
        first, calls = peek(as_calls(images, original, max_images, batch_size))
        notes = check_range(original, first)
        work = copy_swapped(student, {}).eval()
        for parameter in work.parameters():
            parameter.requires_grad_(False)
        with SpilledList(calls, MEMORY) as held, site_bar("calibrating", len(sites), progress) as advance:
            images_seen = sum(_count(args) for args, _ in held)
            wanted = _default_copies(images_seen, blocks) if copies is None else copies
            if not _add_copies(held, wanted, settings.seed) and copies:
                notes.append("no copies were made: images are not one tensor (N, C, H, W)")
            state = FitState(work, original, sites, dense, settings, MEMORY, lambda outcome: advance(outcome.name), blocks)
            with torch.no_grad():
                NetworkFit(state).run(held)
                settle_norms(work, held)
        if images_seen < 32:
            notes.append(f"only {images_seen} image{'s' if images_seen > 1 else ''}: a few hundred give a far better student")
        results = [_result(state.outcomes[name], recipe) for name in sites]
        _transplant(student, work, state.outcomes, recipe)
        method = "least_squares" if blocks is None else "block"
        return CalibrationReport(
            type(student).__name__, method, images_seen, time.perf_counter() - start, tuple(results), tuple(notes)
        )


def _default_copies(images: int, blocks: BlockSettings | None) -> int:
    return 0 if blocks is None else max(0, min(3, VIEWS // images - 1))


def _add_copies(calls: SpilledList, copies: int, seed: int) -> bool:
    """Append copies of every batch; False where batches are not what can be copied."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(copies):
        for index in range(len(calls) // (number + 1)):
            made = copied(calls[index], number, generator)
            if made is None:
                return False
            calls.append(made)
    return True


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
            put(student, name, module)
        student.load_state_dict(versioned(state, student))
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
    put(student, name, made)
