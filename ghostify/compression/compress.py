"""compress(): the smallest student that loses no more than is allowed, or one that meets a target."""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from ..common.buffers import kept_buffers
from ..common.checks import check_has_weights, check_is_module, check_model
from ..common.copying import copy_shared
from ..common.files import PlainData
from ..common.fingerprints import fingerprint
from ..common.progress import share_bar
from ..common.random_state import without_caller_modes
from ..conversion.layer_seconds import LayerSeconds
from ..conversion.one_pass import measure_in_one_pass
from ..conversion.runtime_timer import RuntimeTimer
from ..conversion.target import Target
from ..deployment.runtimes import runtime_named
from ..distillation.training_recipe import Recipe
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.image_range import range_warning
from ..inputs.images import ImageData
from ..inputs.sources import LabelledData
from ..losses import main_output
from ..tasks.kinds import task_for
from ..tasks.task import Task
from .folder import CompressionFolder
from .images import BATCH, HELD_OUT, SomeImages, digests, hold_images, hold_labelled, parted
from .judge import Judge, make_judge
from .report import CompressionResult, CompressionStep
from .run import CompressionRun
from .search import BUILDS, PROBES, RISK
from .settings import CompressionSettings
from .student_maker import StudentMaker
from .timed_layers import time_layers, timed_input


def compress(
    model: nn.Module,
    images: ImageData,
    *,
    target: Mapping[str, float | str] | None = None,
    max_drop: float | None = None,
    val: LabelledData | None = None,
    runtime: str | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    train: LabelledData | None = None,
    recipe: Recipe | None = None,
    ratios: Mapping[str, float | None] | None = None,
    method: str = "least_squares",
    max_images: int = 256,
    task: Task | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CompressionResult:
    """Make a network smaller: to a target, or as small as the drop that is allowed lets it be.

    Students are plain narrower networks, by absorbed ghosts (``convert(cheap="absorbed")``), calibrated on the images. One pass
    of the images tells what each span loses, and every student is planned by that.

    Args:
        model: the original, with its weights; it is not changed.
        images: unlabelled, as for :func:`ghostify.calibrate`.
        target: what the student may cost: ``{"flops": 0.5}`` or ``{"params": 0.5}``, a share of the original's, or a number;
            or ``{"latency": 0.6}`` or ``{"latency": "12ms"}`` on ``runtime``. For latency, layers are timed there, and each
            student, at most five, is timed as a whole beside the original, in turns, until one meets the target.
        max_drop: in place of ``target``, how far the student's measure may be below the original's: 0.01 is one point. At
            most six students are judged. What counts is the upper end of the drop's confidence interval; the intervals of all
            six hold together with 95 % confidence.
        val: what judges, as for :func:`ghostify.evaluate`: with labels by top-1, mean IoU or mAP; without by agreement with
            the original. None: with ``max_drop``, agreement on at least half of ``images``, which neither choose nor calibrate.
        runtime: as for :func:`ghostify.latency`. With ``max_drop`` the student is to be the fastest there.
        batch_size, threads: inputs at a time and threads on the runtime; None for torch's number of threads.
        train: data to distil each student on before it is judged, as for :func:`ghostify.distill`; None for no training.
        recipe: of the distillation; None for ``Recipe.preset("short")``.
        ratios: spans, by the layers that make their maps, that keep what this says, as for :func:`ghostify.convert`.
        method: of the calibration: ``"least_squares"``, or ``"block"``, which takes longer and loses less.
        max_images: so many images choose and calibrate.
        task: how networks of a kind of their own are judged (:class:`ghostify.Task`).
        out: a folder for this compression alone. Each student is kept there; a call that was interrupted goes on from what it
            has, to the same student.
        seed: of the images that judge, and of the calibration.
        progress: show a progress bar.

    Returns:
        The ``student``, and a ``report`` of each step with figures and seconds.

    Raises:
        ArgumentError, ArgumentTypeError: an argument that can't be used, or a limit out of reach, with what can be had.
        UnsupportedModelError: nothing in the model can be made smaller.

    Example:
        >>> result = ghostify.compress(model, images, max_drop=0.01, val=(x, y), progress=True)
        >>> print(result.report)
        >>> result.save("smaller")
    """
    settings = CompressionSettings(
        target=None if target is None else Target.parse(target),
        max_drop=max_drop,
        runtime=runtime,
        batch_size=batch_size,
        threads=threads,
        ratios={} if ratios is None else ratios,
        recipe=recipe,
        method=method,
        max_images=max_images,
        seed=seed,
    )
    _check(model, train, recipe)
    device = next(model.parameters()).device
    with ExitStack() as stack:
        stack.enter_context(without_caller_modes(device))
        stack.enter_context(kept_buffers(model))
        update = stack.enter_context(share_bar("compressing", progress))
        data = _Data.read(stack, copy_shared(model).eval(), images, val, settings, task)
        for warning in data.warnings:
            warnings.warn(warning, stacklevel=2)
        result = _prepared(data, settings, train, task, None if out is None else Path(out), update).run()
    if out is not None:
        result.save(out)
    return result


def _check(model: object, train: object, recipe: object) -> None:
    """Refuse what is no network with weights, and data that can be read but once.

    Raises:
        ArgumentError, ArgumentTypeError, UnsupportedModelError: as said.
    """
    check_is_module("model", model)
    assert isinstance(model, nn.Module)
    check_model(model)
    check_has_weights("model", model)
    if next(model.parameters(), None) is None:
        raise ArgumentError(f"model {type(model).__name__} has no parameters")
    if recipe is not None and train is None:
        raise ArgumentError("recipe goes with train=, the data to distil students on, which is missing")
    if isinstance(train, Iterator):
        raise ArgumentTypeError(f"train must be data that can be read again and again, not a {type(train).__name__}")


class _Data:
    """The original and the images, read and checked.

    Attributes:
        original: in evaluation mode; it shares the tensors of the user's.
        images: that choose and calibrate.
        judge: on other images; None where none judge.
        warnings: what should be known of the images.
    """

    def __init__(self, original: nn.Module, images: SomeImages, judge: Judge | None):
        self.original, self.images, self.judge = original, images, judge
        self.digests = [digest for batch in images for digest in digests(batch)]
        self.warnings: list[str] = []

    @classmethod
    def read(
        cls,
        stack: ExitStack,
        original: nn.Module,
        images: ImageData,
        val: LabelledData | None,
        settings: CompressionSettings,
        task: Task | None,
    ) -> "_Data":
        """Read the images.

        Args:
            stack: closes what holds them.
            original, images, val, settings, task: as for :func:`compress`.

        Raises:
            ArgumentError, ArgumentTypeError: images or labels that can't be used, or too few of them.
        """
        holds_out = settings.max_drop is not None and val is None
        most = settings.max_images + (HELD_OUT if holds_out else 0)
        held, size, listed = hold_images(images, original, most)
        stack.callback(held.close)
        chosen, rest = list(range(len(held))), list[int]()
        if holds_out:
            if len(held) < 2:
                raise ArgumentError("images holds one image: without val, half of them judge, so give more")
            chosen, rest = parted(len(held), settings.max_images, settings.seed)
        calibrating = SomeImages(held, chosen, size, listed)
        items: Iterable[Any] | None = SomeImages(held, rest, size, listed) if holds_out else None
        if val is not None:
            items = stack.enter_context(hold_labelled(val, original))
        judge = None if items is None else make_judge(original, items, task_for(original, main_output, task))
        if judge is not None and settings.max_drop is not None:
            _check_can_tell(judge, settings.max_drop, holds_out)
        data = cls(original, calibrating, judge)
        data._look(val is not None)
        return data

    def _look(self, has_val: bool) -> None:
        """Note what should be known of the images."""
        with kept_buffers(self.original):
            warning = range_warning(self.original, ((next(iter(self.images)),), {}))
        if warning is not None:
            self.warnings.append(warning)
        both = 0 if self.judge is None else len(self.judge.seen & set(self.digests))
        if has_val and both:
            assert self.judge is not None
            self.warnings.append(
                f"{both} of val's {self.judge.images} images are among images, which choose and calibrate: drops on them look "
                "smaller than they are"
            )

    def header(self, settings: CompressionSettings, train: object) -> PlainData:
        """What tells this compression from others."""
        judge = self.judge
        val = None if judge is None else [fingerprint([repr(sorted(judge.seen))]), judge.measure, judge.images, judge.baseline]
        return {
            "model": fingerprint(self.original),
            "images": fingerprint([repr(self.digests)]),
            "val": val,
            "train": None if train is None else fingerprint(train),
            "settings": settings.to_dict(),
        }


def _check_can_tell(judge: Judge, max_drop: float, holds_out: bool) -> None:
    """Refuse a limit that so few images can never tell.

    Raises:
        ArgumentError: there are too few.
    """
    needed = judge.needed(max_drop, RISK)
    if judge.images >= needed:
        return
    how = f"{needed} and those that calibrate in images, or labelled ones in val" if holds_out else f"{needed} in val"
    raise ArgumentError(
        f"max_drop={max_drop:g} can't be told by {judge.images} images: a student that loses nothing on them may lose more in "
        f"truth; give {how}"
    )


def _prepared(
    data: _Data,
    settings: CompressionSettings,
    train: LabelledData | None,
    task: Task | None,
    out: Path | None,
    update: Callable[[float, str], None],
) -> CompressionRun:
    """The compression, with what one pass of images and the times of layers tell."""
    folder = CompressionFolder(out, data.header(settings, train))
    steps: list[CompressionStep] = []
    expected = 2 + (PROBES if settings.max_drop is not None else BUILDS if settings.metric == "latency" else 0)

    def note(text: str) -> None:
        update(min(0.99, len(steps) / expected), text)

    timer = x = seconds = None
    if settings.runtime is not None:
        timer = RuntimeTimer(runtime_named(settings.runtime), settings.threads)
        x = timed_input(data.original, data.images.example, settings.batch_size)
        seconds = _seconds(data.original, timer, x, folder, note, steps)
    note("one pass of images")
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images, of which the user knows
        table = measure_in_one_pass(
            data.original, data.images, settings.config, (2.0,), len(data.images), BATCH, folder.file("one_pass.json"), False
        )
    steps.append(CompressionStep("one pass", time.perf_counter() - start))
    maker = StudentMaker(data.original, data.images, settings, table, seconds, train, task, folder, note)
    return CompressionRun(maker, data.judge, timer, x, folder, note, steps)


def _seconds(
    original: nn.Module,
    timer: RuntimeTimer,
    x: Any,
    folder: CompressionFolder,
    note: Callable[[str], None],
    steps: list[CompressionStep],
) -> LayerSeconds:
    """The times of layers, measured once."""
    start = time.perf_counter()
    stored = folder.remembered(
        "layer_seconds", lambda: asdict(time_layers(original, timer, x, note)), lambda data: "total" in data
    )
    steps.append(CompressionStep("times of layers", time.perf_counter() - start))
    return LayerSeconds(**stored)
