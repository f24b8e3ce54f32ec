"""calibrate(): win accuracy back from a few unlabelled images, first in closed form, then by a few gradient steps a block."""

import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..absorption.survey import RIDGE, SurveySettings
from ..common.buffers import BuffersBefore, kept_buffers
from ..common.calls import Arguments
from ..common.checks import check_choice
from ..common.copying import copy_shared
from ..common.progress import site_bar
from ..common.random_state import without_caller_modes
from ..common.spill import SpilledList
from ..inputs.image_range import range_warning
from ..inputs.images import ImageData, as_calls, peek
from ..layers.convolution import is_transposed
from ..students.replay import as_recorded
from .absorbed_start import absorbed_start
from .copies import add_copies, default_copies, images_in
from .fit_state import FitState
from .network_fit import NetworkFit
from .norms import settle_norms
from .pair_checks import Pair, check_networks, check_pair
from .report import CalibrationReport, SiteResult
from .settings import BlockSettings, ImageSettings, Settings
from .transplant import transplant

METHODS = ("least_squares", "block")
MEMORY = 512 << 20  # bytes of feature maps held; what is above goes to a temporary file


def calibrate(
    student: nn.Module,
    teacher: nn.Module,
    images: ImageData,
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

    Of a student with absorbed ghosts the images first choose the maps that stay, by one pass through the teacher, as many as
    :func:`ghostify.convert` said, and the layers that read them absorb the others; then these are the sites that are fitted.

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
            something else then. None: up to three with ``"block"``; with ``"least_squares"`` one for students with
            absorbed ghosts and none for others; as long as that makes 1,024 images at most. Only (N, C, H, W) tensors are
            copied.
        align: give layers whose outputs are added to each other the same intrinsic channels and sources, so that
            :func:`ghostify.fold` need not restore the order of channels after any of them. For students that are to be fast;
            it costs nothing where ghosts are pointwise, and accuracy where they are depthwise.
        seed: of the positions that wide layers sample and of the order of batches.
        progress: show a progress bar.

    Returns:
        What became of each site: its relative error before and after, and its reason where its warm start was kept. Sites of
        a student with absorbed ghosts are the layers that absorb maps.

    Raises:
        ArgumentError, ArgumentTypeError: a setting, an image or a teacher that can't be used; the message says why.

    Example:
        >>> student = ghostify.convert(teacher, ratio=2, cheap="auto")
        >>> print(ghostify.calibrate(student, teacher, images))
    """
    check_choice("method", method, METHODS)
    counts = ImageSettings(max_images, batch_size, copies)
    settings = Settings(ridge=ridge, align=bool(align), seed=seed)
    blocks = BlockSettings(steps, lr, seed=seed)
    with _prepared(student, teacher, images, settings, blocks if method == "block" else None, counts) as calibration:
        if calibration.warning is not None:
            warnings.warn(calibration.warning, stacklevel=2)
        return calibration.run(progress)


def calibrate_with(
    student: nn.Module,
    teacher: nn.Module,
    images: ImageData,
    settings: Settings,
    blocks: BlockSettings | None = None,
    counts: ImageSettings | None = None,
) -> CalibrationReport:
    """:func:`calibrate` with every setting, those that only ablations change among them; no ``blocks`` is no gradient step."""
    with _prepared(student, teacher, images, settings, blocks, counts or ImageSettings()) as calibration:
        if calibration.warning is not None:
            warnings.warn(calibration.warning, stacklevel=2)
        return calibration.run()


@contextmanager
def _prepared(
    student: nn.Module,
    teacher: nn.Module,
    images: ImageData,
    settings: Settings,
    blocks: BlockSettings | None,
    counts: ImageSettings,
) -> Iterator["_Calibration"]:
    """A calibration whose models and first batch are checked, to be run before the block ends."""
    start = time.perf_counter()
    recipe = check_networks(student, teacher)
    mixed = bool(recipe.spans) and "budget" in recipe.config  # operations were chosen with the widths, by images
    settings = replace(settings, auto=recipe.config.get("cheap") == "auto" and not mixed)
    with without_caller_modes(next(teacher.parameters()).device):
        original = copy_shared(teacher).eval()
        with kept_buffers(original) as before:
            first, calls = peek(as_calls(images, original, counts.max_images, counts.batch_size))
            warning = range_warning(original, first)
            pair = check_pair(student, teacher, recipe, first)
            yield _Calibration(student, original, pair, calls, settings, blocks, counts.copies, start, warning, before)


@dataclass
class _Calibration:
    """One calibration, checked.

    Args:
        student: it is changed at the end of :meth:`run`.
        teacher: in evaluation mode; a copy that shares the tensors of the user's.
        pair: what is known of the two.
        calls: the arguments of a forward pass for each batch; they can be read once.
        settings: of the closed form.
        blocks: of the gradient steps; None for none.
        copies: of each image; None for what the method gains from.
        start: when the calibration began, by :func:`time.perf_counter`.
        warning: what should be known of the range of the images.
        before: the teacher's buffers before any of its passes.
    """

    student: nn.Module
    teacher: nn.Module
    pair: Pair
    calls: Iterable[Arguments]
    settings: Settings
    blocks: BlockSettings | None
    copies: int | None
    start: float
    warning: str | None
    before: BuffersBefore
    notes: list[str] = field(default_factory=list)

    def run(self, progress: bool = False) -> CalibrationReport:
        """Calibrate a copy of the student; then bring what it has become into the student."""
        if self.warning is not None:
            self.notes.append(self.warning)
        recipe = self.pair.recipe
        readers = {name for span in recipe.narrowed for name, _, _ in span.readers}
        refitted = [name for name in readers if not is_transposed(self.student.get_submodule(name))]
        steps = len(self.pair.sites) + len(recipe.narrowed) + len(refitted)
        with SpilledList(self.calls, MEMORY) as held, site_bar("calibrating", steps, progress) as advance:
            images = sum(images_in(args) for args, _ in held)
            survey = SurveySettings(min(RIDGE, self.settings.ridge), self.settings.seed, memory=MEMORY)
            start = absorbed_start(self.student, self.teacher, recipe, held, survey, advance, self.settings.choose)
            self._add_copies(held, images)
            work = start.student.eval().requires_grad_(False)
            records = {record.name: record for record in recipe.sites}
            sites = {name: as_recorded(records[name], start.sites[name]) for name in self.pair.sites}
            state = FitState(
                student=work,
                teacher=self.teacher,
                sites=sites,
                dense=start.dense(sites),
                settings=self.settings,
                blocks=self.blocks,
                memory=MEMORY,
                on_site=lambda result: advance(result.name),
                kept=start.kept,
                narrower=start.narrower,
                readers=start.readers,
            )
            with torch.no_grad():
                NetworkFit(state, held).run()
                settle_norms(work, held)
        self.notes += start.notes
        if images < 32:
            self.notes.append(f"only {images} image{'s' if images > 1 else ''}: a few hundred give a far better student")
        self._note_frozen(work)
        self._reset_counters(work)
        transplant(self.student, work, state.results, recipe, start.kept)
        order = {record.name: position for position, record in enumerate(recipe.sites)}
        return self._report(
            images, [state.results[name] for name in sorted(state.due, key=lambda name: order.get(name, len(order)))]
        )

    def _add_copies(self, held: SpilledList[Arguments], images: int) -> None:
        most = 3 if self.blocks is not None else 1 if self.pair.recipe.narrowed else 0  # that were found to pay
        copies = default_copies(images, most) if self.copies is None else self.copies
        if not add_copies(held, copies, self.settings.seed) and self.copies:
            self.notes.append("no copies were made: images are not one tensor (N, C, H, W)")

    def _reset_counters(self, work: nn.Module) -> None:
        """Give the copy the student's buffers wherever the network's own code writes into them: those that the teacher's passes
        changed, batch norms aside."""
        for name in self.before.changed():
            parent, _, own = name.rpartition(".")
            modules = [dict(model.named_modules()).get(parent) for model in (work, self.student)]
            if any(module is None or isinstance(module, _BatchNorm) or own not in module._buffers for module in modules):
                continue
            to, of = (module._buffers for module in modules if module is not None)
            to[own] = None if (buffer := of[own]) is None else buffer.detach().clone()

    def _note_frozen(self, work: nn.Module) -> None:
        """Say which parameters that the user froze are rewritten all the same."""
        values = dict(work.named_parameters())
        frozen = [name for name, parameter in self.student.named_parameters() if not parameter.requires_grad]
        before = self.student.get_parameter
        changed = [name for name in frozen if name not in values or not torch.equal(before(name), values[name])]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            self.notes.append(
                f"frozen parameters were rewritten, too, since only gradients go by requires_grad: {changed[0]}{more}"
            )

    def _report(self, images: int, results: list[SiteResult]) -> CalibrationReport:
        method = "least_squares" if self.blocks is None else "block"
        seconds = time.perf_counter() - self.start
        return CalibrationReport(type(self.student).__name__, method, images, seconds, tuple(results), tuple(self.notes))
