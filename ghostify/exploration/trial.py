"""One trial of a sweep: its settings, its name, and what came of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..calibration.calibrate import METHODS
from ..common.checks import check_choice, whole_number
from ..common.files import PlainData
from ..compression.settings import CompressionSettings
from ..conversion.settings import GhostConfig
from ..conversion.target import Target
from ..deployment.runtimes import runtime_named
from ..distillation.training_recipe import Recipe
from ..errors import ArgumentError

FORMAT = 1

MOST_IMAGES = 1024  # that choose and calibrate

CONVERT_KEYS = ("ratio", "target", "dw_size", "cheap", "ratios", "linear_ratio", "min_channels", "round_to")

KEYS = ("model", *CONVERT_KEYS, "max_drop", "runtime", "method", "recover", "seed")

COMPRESS_KEYS = ("model", "max_drop", "target", "cheap", "ratios", "runtime", "method", "recover", "seed")
"""Settings of a trial that :func:`ghostify.compress` makes the student of."""


@dataclass(frozen=True)
class Trial:
    """One combination of settings; without any but the model, the original itself.

    Args:
        settings: plain data: ``model``, a name; those of :func:`ghostify.convert`; ``max_drop`` of :func:`ghostify.compress`;
            ``runtime``, where both networks are timed; ``method`` of calibration, or ``"none"``; ``recover``, a number of steps
            or settings of a :class:`ghostify.Recipe`; ``seed``.
    """

    settings: PlainData

    @property
    def name(self) -> str:
        """The name of the trial's folder: its settings in short, and a digest that no other trial has."""
        text = json.dumps(self.settings, sort_keys=True)
        words = [_word(key, value) for key, value in self.settings.items() if key != "model"] or ["original"]
        return f"{'_'.join(words)[:80]}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def is_original(self) -> bool:
        """Whether the trial measures the original itself."""
        return self.settings.keys() <= {"model"}

    @property
    def is_compression(self) -> bool:
        """Whether :func:`ghostify.compress` makes the student: to a drop, or to a target of latency on a runtime."""
        if self.settings.get("max_drop") is not None:
            return True
        target = self.settings.get("target")
        return self.runtime is not None and target is not None and Target.parse(target).metric == "latency"

    @property
    def runtime(self) -> str | None:
        """The runtime that was asked for."""
        return self.settings.get("runtime")

    def compression(self) -> CompressionSettings:
        """The settings of :func:`ghostify.compress`.

        Raises:
            ArgumentError, ArgumentTypeError: a setting that can't be, or does not go with ``max_drop``.
        """
        values = {key: value for key, value in self.settings.items() if value is not None}
        what = "max_drop" if "max_drop" in values else "a target of latency on a runtime"
        if values.get("cheap", "absorbed") != "absorbed":
            raise ArgumentError(f"a trial with {what} has cheap='absorbed', not {values['cheap']!r}")
        other = sorted(values.keys() - set(COMPRESS_KEYS))
        if other:
            raise ArgumentError(f"a trial with {what} has no {other[0]}")
        return CompressionSettings(
            target=Target.parse(values["target"]) if "target" in values else None,
            max_drop=values.get("max_drop"),
            runtime=self.runtime,
            batch_size=1,
            threads=None,
            ratios=values.get("ratios", {}),
            method=values.get("method", "block"),
            max_images=MOST_IMAGES,
            seed=values.get("seed", 0),
        )

    def check(self) -> None:
        """Check the settings before any work.

        Raises:
            ArgumentError, ArgumentTypeError: a setting that can't be.
        """
        values = self.settings
        if values.get("ratio") is not None and values.get("target") is not None:
            raise ArgumentError("a grid has either ratio or target, not both: give a list of two grids")
        if values.get("target") is not None:
            Target.parse(values["target"])
        options = {key: values[key] for key in CONVERT_KEYS if key != "target" and values.get(key) is not None}
        GhostConfig(**options)
        if self.runtime is not None:
            runtime_named(self.runtime)
        if self.is_compression:
            self.compression()
        check_choice("method", values.get("method", "block"), ("none", *METHODS))
        whole_number("seed", values.get("seed", 0), 0)
        self.recipe()

    def recipe(self) -> Recipe | None:
        """The recipe of the distillation; None for a student that is not distilled."""
        recover = self.settings.get("recover")
        if recover is None or (not isinstance(recover, Mapping) and whole_number("recover", recover, 0) == 0):
            return None
        seed = self.settings.get("seed", 0)
        if isinstance(recover, Mapping):
            return Recipe.from_dict({"seed": seed, **recover})
        return Recipe.preset("short", steps=int(recover), seed=seed)


def _word(key: str, value: object) -> str:
    text = json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)
    return f"{key}-" + "".join(c if c.isalnum() or c in ".-" else "" for c in text)


@dataclass(frozen=True)
class TrialResult:
    """What came of a trial; of one that failed there is the ``error`` alone.

    Attributes:
        settings: the trial's.
        params: parameters of the student.
        flops: its multiply-adds for one input.
        params_share, flops_share: these as shares of the original's.
        latency: seconds for one input on the machine of the trial, median; it varies from run to run.
        top1, agreement: shares of the validation images.
        latency_share: the latency as a share of the original's, timed in turns with it: what slows the machine down slows both.
        latency_low, latency_high: quartiles of the share over the turns.
        seconds: that the trial took.
        error: the message of a trial that failed.
    """

    settings: PlainData
    params: int | None = None
    flops: int | None = None
    params_share: float | None = None
    flops_share: float | None = None
    latency: float | None = None
    top1: float | None = None
    agreement: float | None = None
    latency_share: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    seconds: float = 0.0
    error: str | None = None
    format: int = FORMAT

    def described(self) -> str:
        """The settings but for the model, in one line."""
        settings = {key: value for key, value in self.settings.items() if key != "model" and value is not None}
        words = (f"{key}={json.dumps(value) if isinstance(value, (dict, list)) else value}" for key, value in settings.items())
        return ", ".join(words) or "the original"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TrialResult":
        """Read what :meth:`to_json` gave.

        Raises:
            ValueError: the text is no result.
        """
        try:
            result = cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error
        if result.format != FORMAT or not isinstance(result.settings, dict):
            raise ValueError("of another version of ghostify")
        return result
