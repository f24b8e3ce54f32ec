"""Run one trial of a sweep: convert, calibrate, distil, measure, and write down what came of it."""

import json
import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from ..calibration.calibrate import calibrate
from ..common.calls import PositionalArguments
from ..common.copying import copy_shared
from ..common.costs import count_params, measure
from ..common.files import PlainData, write_text
from ..common.text import first_line
from ..compression.compress import compress
from ..conversion.convert import convert
from ..conversion.runtime_timer import REPEATS, Beside, RuntimeTimer
from ..conversion.sensitivity_table import Sensitivity
from ..deployment.runtimes import runtime_named
from ..distillation.distill import distill
from ..errors import ArgumentError
from ..inputs.images import ImageData, as_calls
from ..inputs.sources import LabelledData
from ..inputs.zoo import create_model
from ..students.conversion_recipe import recipe_of
from ..tasks.evaluate import evaluate
from .trial import CONVERT_KEYS, MOST_IMAGES, Trial, TrialResult

log = logging.getLogger(__name__)

TURN = 0.02  # seconds that each network runs before the other has its turn


@dataclass(frozen=True)
class SensitivityKey:
    """What the sensitivity of a trial depends on: trials with equal keys go by the same measurement."""

    model: str
    cheap: str
    dw_size: int

    @classmethod
    def of(cls, settings: PlainData) -> "SensitivityKey":
        """The key of a trial's settings."""
        return cls(settings["model"], settings.get("cheap") or "depthwise", settings.get("dw_size") or 3)


@dataclass(frozen=True)
class SweepData:
    """What all trials of a sweep have in common.

    Args:
        models: modules by name, or names of the zoo, whose pretrained weights are taken.
        images: for calibration.
        val: to measure on.
        train: for distillation.
        out: folder of the sweep; those of the trials lie in ``trials``.
        sensitivities: files that targets are shared out by.
    """

    models: Mapping[str, nn.Module | str]
    images: ImageData
    val: LabelledData
    train: LabelledData
    out: Path
    sensitivities: Mapping[SensitivityKey, Path] = field(default_factory=dict)

    def folder(self, trial: Trial) -> Path:
        return self.out / "trials" / trial.name

    def model(self, name: str) -> nn.Module:
        """The original of that name."""
        model = self.models[name]
        return create_model(model, pretrained=True) if isinstance(model, str) else model

    def check_images(self, model: nn.Module) -> None:
        """Read what calibration reads.

        Raises:
            ArgumentError, ArgumentTypeError: images that can't be used.
        """
        for _ in as_calls(self.images, model, MOST_IMAGES, 32):
            pass

    def example(self, model: nn.Module) -> PositionalArguments:
        """One image, as a forward pass takes it."""
        (batch,), _ = next(as_calls(self.images, model, 1, 1))
        return (batch,)


def run_trial(data: SweepData, trial: Trial) -> TrialResult:
    """Run a trial, and write ``trial.json``, ``recipe.json`` and ``log.txt`` into its folder, the first at the very end."""
    folder = data.folder(trial)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    messages = [f"settings    {json.dumps(trial.settings)}"]
    try:
        result = _measure(data, trial, messages)
    except Exception as error:  # whatever a model, its data or a setting does: the other trials go on
        result = TrialResult(trial.settings, error=f"{type(error).__name__}: {first_line(error)}")
        messages.append(traceback.format_exc())
        log.warning("trial %s failed: %s", trial.name, first_line(error))
    result = replace(result, seconds=round(time.perf_counter() - start, 3))
    write_text(folder / "log.txt", "\n\n".join(messages) + "\n")
    write_text(folder / "trial.json", result.to_json() + "\n")
    return result


def _measure(data: SweepData, trial: Trial, messages: list[str]) -> TrialResult:
    """The trial's figures; what each stage reports is added to ``messages``."""
    teacher = copy_shared(data.model(trial.settings["model"])).eval()
    example = data.example(teacher)
    student = teacher
    if trial.is_original:
        data.check_images(teacher)
    else:
        student = _make_student(data, trial, teacher, example, messages)
        recipe = recipe_of(student)
        assert recipe is not None  # convert attaches it
        write_text(data.folder(trial) / "recipe.json", json.dumps(recipe.to_dict(), indent=1))
    teacher_costs, student_costs = (measure(network, example) for network in (teacher, student))
    evaluation = evaluate(student, data.val, teacher=teacher)
    messages.append(str(evaluation))
    params = count_params(student)
    times = _times(teacher, student, example, trial)
    return TrialResult(
        trial.settings,
        params=params,
        flops=student_costs.flops,
        params_share=params / count_params(teacher),
        flops_share=student_costs.flops / max(1, teacher_costs.flops),
        latency=times.student,
        latency_share=times.share,
        latency_low=times.low,
        latency_high=times.high,
        top1=evaluation.top1,
        agreement=evaluation.agreement,
    )


def _times(teacher: nn.Module, student: nn.Module, example: PositionalArguments, trial: Trial) -> Beside:
    """Seconds for one input, folded, of the student and the original in turns; by default in PyTorch, on the model's device.

    Raises:
        ArgumentError: the runtime can't be used here.
    """
    (given,) = example
    runtime = runtime_named(trial.runtime or ("cuda" if given.is_cuda else "eager"))
    missing = runtime.missing()
    if missing is not None:
        raise ArgumentError(f"runtime={runtime.name!r} can't be used here: {missing}")
    x = given.cpu()
    times = RuntimeTimer(runtime).beside(teacher, student, x, TURN, REPEATS)
    return Beside(times.original, times.original, 1.0, 1.0, 1.0) if trial.is_original else times


def _make_student(
    data: SweepData, trial: Trial, teacher: nn.Module, example: PositionalArguments, messages: list[str]
) -> nn.Module:
    if trial.is_compression:
        return _compressed(data, trial, teacher, messages)
    settings = trial.settings
    options = {key: settings[key] for key in CONVERT_KEYS if settings.get(key) is not None}
    if "target" in options:
        key = SensitivityKey.of(settings)
        options["example_input"] = example
        if key in data.sensitivities:
            options["sensitivity"] = Sensitivity.load(data.sensitivities[key])
    student: nn.Module = convert(teacher, **options)
    seed, method = settings.get("seed", 0), settings.get("method", "block")
    if method != "none":
        calibration = calibrate(student, teacher, data.images, method=method, seed=seed, max_images=MOST_IMAGES)
        messages.append(calibration.summary())
    recipe = trial.recipe()
    if recipe is not None:
        messages.append(str(distill(student, teacher, data.train, recipe=recipe)))
    return student.eval()


def _compressed(data: SweepData, trial: Trial, teacher: nn.Module, messages: list[str]) -> nn.Module:
    """The student of a drop, or of a target of latency on a runtime; without labels in ``val`` by agreement on it."""
    recipe, settings = trial.recipe(), trial.compression()
    result = compress(
        teacher,
        data.images,
        target=trial.settings.get("target"),
        max_drop=settings.max_drop,
        val=data.val if settings.max_drop is not None else None,
        runtime=settings.runtime,
        train=None if recipe is None else data.train,
        recipe=recipe,
        ratios=settings.ratios,
        method=settings.method,
        max_images=settings.max_images,
        seed=settings.seed,
    )
    messages.append(str(result.report))
    return result.student
