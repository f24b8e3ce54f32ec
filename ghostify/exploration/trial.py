"""One trial of a sweep: convert, calibrate, recover, measure, and write down what came of it."""

import hashlib
import json
import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.calibrate import METHODS, calibrate
from ..common.checks import check_choice, whole_number
from ..common.copying import copy_shared
from ..common.costs import count_params, measure
from ..common.files import write_text
from ..conversion.convert import convert
from ..conversion.plan import GhostConfig
from ..conversion.sensitivity_table import Sensitivity
from ..conversion.site_latency import seconds_of
from ..conversion.target import Target
from ..distillation.distill import distill
from ..distillation.recipe import Recipe
from ..errors import ArgumentError
from ..inputs.images import as_calls
from ..inputs.zoo import create_model
from ..students.recipe import recipe_of
from ..tasks.evaluate import evaluate

log = logging.getLogger(__name__)


FORMAT = 1


MOST_IMAGES = 1024  # that calibration reads


CONVERT = ("ratio", "target", "dw_size", "cheap", "ratios", "linear_ratio", "min_channels", "round_to")


KEYS = ("model", *CONVERT, "method", "recover", "seed")


@dataclass(frozen=True)
class Trial:
    """One combination of settings; without any but the model, the original itself.

    Args:
        settings: plain data: ``model``, a name; those of :func:`ghostify.convert`; ``method`` of calibration, or
            ``"none"``; ``recover``, a number of steps or settings of a :class:`ghostify.Recipe`; ``seed``.
    """

    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder: what it does in short, and a digest that no other trial has."""
        text = json.dumps(self.settings, sort_keys=True)
        words = [_word(key, value) for key, value in self.settings.items() if key != "model"] or ["original"]
        return f"{'_'.join(words)[:80]}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def is_original(self) -> bool:
        return self.settings.keys() <= {"model"}

    def check(self) -> None:
        """
        Raises:
            ArgumentError, ArgumentTypeError: a setting that can't be.
        """
        values = self.settings
        if values.get("ratio") is not None and values.get("target") is not None:
            raise ArgumentError("a grid has either ratio or target, not both: give a list of two grids")
        if values.get("target") is not None:
            Target.parse(values["target"])
        options = {key: values[key] for key in CONVERT if key != "target" and values.get(key) is not None}
        GhostConfig(**options)
        check_choice("method", values.get("method", "block"), ("none", *METHODS))
        whole_number("seed", values.get("seed", 0), 0)
        self.recipe()

    def recipe(self) -> Recipe | None:
        """Of the recovery; None for none."""
        wanted = self.settings.get("recover")
        if wanted is None or (not isinstance(wanted, Mapping) and whole_number("recover", wanted, 0) == 0):
            return None
        seed = self.settings.get("seed", 0)
        if isinstance(wanted, Mapping):
            return Recipe.from_dict({"seed": seed, **wanted})
        return Recipe.preset("short", steps=int(wanted), seed=seed)


def _word(key: str, value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)
    return f"{key}-" + "".join(c if c.isalnum() or c in ".-" else "" for c in text)


@dataclass(frozen=True)
class Result:
    """What came of a trial. Of a failed one there is an ``error``, and nothing else.

    Attributes:
        settings: of the trial.
        params, flops: of the student; multiply-adds for one input.
        params_share, flops_share: of the original's.
        latency: seconds for one input on the machine of the trial, median; it varies from run to run.
        top1, agreement: shares of the validation images.
        seconds: that the trial took.
        error: what went wrong.
    """

    settings: dict[str, Any]
    params: int | None = None
    flops: int | None = None
    params_share: float | None = None
    flops_share: float | None = None
    latency: float | None = None
    top1: float | None = None
    agreement: float | None = None
    seconds: float = 0.0
    error: str | None = None
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Result":
        """
        Raises:
            ValueError: the text is no result.
        """
        try:
            made = cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error
        if made.format != FORMAT or not isinstance(made.settings, dict):
            raise ValueError("of another version of ghostify")
        return made


@dataclass(frozen=True)
class SweepData:
    """What all trials of a sweep have in common.

    Args:
        models: by name; a module, or a name of the zoo, whose pretrained weights are taken.
        images: for calibration.
        val: to measure on.
        train: for recovery.
        out: folder of the sweep; trials lie in ``trials``.
        sensitivities: files, by model, cheap operation and kernel size.
    """

    models: dict[str, nn.Module | str]
    images: Any
    val: Any
    train: Any
    out: Path
    sensitivities: dict[tuple[str, str, int], Path] = field(default_factory=dict)

    def folder(self, trial: Trial) -> Path:
        return self.out / "trials" / trial.name

    def model(self, name: str) -> nn.Module:
        found = self.models[name]
        return create_model(found, pretrained=True) if isinstance(found, str) else found

    def check_images(self, model: nn.Module) -> None:
        """Read what calibration reads.

        Raises:
            ArgumentError, ArgumentTypeError: images that can't be used.
        """
        for _ in as_calls(self.images, model, MOST_IMAGES, 32):
            pass

    def example(self, model: nn.Module) -> tuple[Any, ...]:
        """One image, as a forward takes it."""
        (batch,), _ = next(as_calls(self.images, model, 1, 1))
        return (batch,)


def run_trial(task: SweepData, trial: Trial) -> Result:
    """Run a trial, and write ``trial.json``, ``recipe.json`` and ``log.txt`` into its folder, the first at the very end."""
    folder = task.folder(trial)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    told: list[str] = [f"settings    {json.dumps(trial.settings)}"]
    try:
        result = _measured(task, trial, told)
    except Exception as error:  # whatever a model, its data or a setting does: the other trials go on
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        result = Result(trial.settings, error=f"{type(error).__name__}: {reason}")
        told.append(traceback.format_exc())
        log.warning("trial %s failed: %s", trial.name, reason)
    result = Result(**{**asdict(result), "seconds": round(time.perf_counter() - start, 3)})
    write_text(folder / "log.txt", "\n\n".join(told) + "\n")
    write_text(folder / "trial.json", result.to_json() + "\n")
    return result


def _measured(task: SweepData, trial: Trial, told: list[str]) -> Result:
    settings = trial.settings
    teacher = copy_shared(task.model(settings["model"])).eval()
    example = task.example(teacher)
    student = teacher
    if trial.is_original:
        task.check_images(teacher)
    else:
        student = _student(task, trial, teacher, example, told)
        write_text(task.folder(trial) / "recipe.json", json.dumps(recipe_of(student).to_dict(), indent=1))  # type: ignore[union-attr]
    dense, costs = (measure(net, example) for net in (teacher, student))
    judged = evaluate(student, task.val, teacher=teacher)
    told.append(str(judged))
    params = count_params(student)
    return Result(
        settings, params, costs.flops, params / count_params(teacher), costs.flops / max(1, dense.flops),
        seconds_of(lambda: student(*example)), judged.top1, judged.agreement,
    )  # fmt: skip


def _student(task: SweepData, trial: Trial, teacher: nn.Module, example: tuple[Any, ...], told: list[str]) -> nn.Module:
    settings = trial.settings
    options = {key: settings[key] for key in CONVERT if settings.get(key) is not None}
    if "target" in options:
        key = sensitivity_key(settings)
        options["example_input"] = example
        if key in task.sensitivities:
            options["sensitivity"] = Sensitivity.load(task.sensitivities[key])
    student = convert(teacher, **options)
    seed, method = settings.get("seed", 0), settings.get("method", "block")
    if method != "none":
        told.append(calibrate(student, teacher, task.images, method=method, seed=seed, max_images=MOST_IMAGES).summary())
    recipe = trial.recipe()
    if recipe is not None:
        told.append(str(distill(student, teacher, task.train, recipe=recipe)))
    return student.eval()


def sensitivity_key(settings: Mapping[str, Any]) -> tuple[str, str, int]:
    """Trials of equal keys go by the same sensitivity."""
    return settings["model"], settings.get("cheap") or "depthwise", settings.get("dw_size") or 3


def fingerprint(data: Any) -> str:
    """A digest of a model's weights or of data, to tell one sweep from another; of a loader, its class and length."""
    digest = hashlib.sha256()
    if isinstance(data, nn.Module):
        digest.update(type(data).__name__.encode())
        parts: list[Any] = list(data.state_dict().values())
    else:
        parts = list(data) if isinstance(data, (tuple, list)) else [data]
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif hasattr(part, "tobytes"):
            digest.update(part.tobytes())
        elif isinstance(part, (str, Path)):
            digest.update(str(part).encode())
        else:
            digest.update(f"{type(part).__name__} {len(part) if hasattr(part, '__len__') else ''}".encode())
    return digest.hexdigest()[:16]
