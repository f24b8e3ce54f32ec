"""The recipe of a distillation: budget, losses, optimizer; to and from YAML."""

import contextlib
import difflib
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..common.checks import check_choice
from ..common.files import PlainData, read_settings, write_text
from ..errors import ArgumentError, ArgumentTypeError

BUDGETS = ("epochs", "steps", "minutes")
PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "poly", "constant")
AUGMENTATIONS = ("auto", "none")


@dataclass(frozen=True)
class Recipe:
    """How :func:`ghostify.distill` trains. One of ``epochs``, ``steps`` and ``minutes`` is the budget.

    Args:
        epochs: passes over the data.
        steps: optimizer steps.
        minutes: wall-clock time of training; the schedule follows the clock, so such a run is not repeatable bit for bit.
        batch_size: images of one optimizer step, over all processes, where ``train`` is not already in batches.
        lr: highest learning rate.
        optimizer: a name of timm's, ``"sgd"`` (Nesterov momentum 0.9), ``"adamw"``, ``"lamb"``, ...
        weight_decay: factor of timm's weight decay, which leaves out norms and biases.
        schedule: ``"cosine"`` or ``"poly"`` to zero, or ``"constant"``.
        warmup: part of the budget, below 1, in which the learning rate rises from zero.
        logits: weight of :func:`~ghostify.losses.logit_distillation`.
        temperature: by which scores are divided there.
        relation: weight of :func:`~ghostify.losses.relation_distillation`.
        features: weight of :func:`~ghostify.losses.feature_matching`, after each block (or site, where there are none).
        labels: weight of the cross-entropy with the labels of ``train``; 0 does not read them.
        mixup, cutmix: alpha of timm's mixup and cutmix; 0 is off. Images are mixed in pairs: the last one of an odd batch is
            left out.
        augment: ``"auto"`` mirrors and shifts images by up to an eighth where ``train`` is a tensor or an array (folders get
            timm's training transform, loaders have their own); ``"none"`` does not.
        dropout: whether the student's dropout layers drop anything; a teacher's answers leave little to overfit to.
        ema: decay of a running average of the weights, which then is what is validated and returned; None for none.
        clip: largest norm of the gradient; None for no limit.
        accumulate: batches of one optimizer step.
        precision: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"``.
        channels_last: whether networks and images are in this memory format, which is faster on many devices.
        patience: stop after so many epochs without a better validation; None for never.
        seed: decides the order of images and every other random choice.

    Raises:
        ArgumentError, ArgumentTypeError: no budget or several, no loss, or a setting that can't be; the message names it.
    """

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    lr: float = 0.02
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    logits: float = 1.0
    temperature: float = 4.0
    relation: float = 0.0
    features: float = 1.0
    labels: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    augment: str = "auto"
    dropout: bool = False
    ema: float | None = None
    clip: float | None = None
    accumulate: int = 1
    precision: str = "fp32"
    channels_last: bool = False
    patience: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        budget = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budget) != 1:
            raise ArgumentError(f"a recipe has one budget, epochs, steps or minutes, not {' and '.join(budget) or 'none'}")
        for name in ("epochs", "steps", "batch_size", "accumulate", "patience"):
            self._check_number(name, int, 1)
        self._check_number("seed", int, 0)
        for name in ("minutes", "lr", "temperature", "clip"):
            self._check_number(name, float, 0, above=True)
        for name in ("weight_decay", "warmup", "logits", "relation", "features", "labels", "mixup", "cutmix", "ema"):
            self._check_number(name, float, 0)
        for name in ("warmup", "ema"):
            if (getattr(self, name) or 0) >= 1:
                raise ArgumentError(f"{name} must be below 1, not {getattr(self, name)!r}")
        if not any((self.logits, self.relation, self.features, self.labels)):
            raise ArgumentError("a recipe needs a loss: one of logits, relation, features and labels above 0")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            raise ArgumentError(f"mixup and cutmix mix pairs of images: batch_size must be even, not {self.batch_size}")
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("augment", self.augment, AUGMENTATIONS)
        _check_optimizer(self.optimizer)
        for name in ("channels_last", "dropout"):
            if not isinstance(getattr(self, name), bool):
                raise ArgumentTypeError(f"{name} must be True or False, not {getattr(self, name)!r}")

    def _check_number(self, name: str, kind: type, least: float, above: bool = False) -> None:
        """Refuse a setting that is no number of at least ``least``, or above it. None is right where it is the default."""
        value = getattr(self, name)
        optional = {f.name for f in fields(self) if f.default is None}
        if value is None and name in optional:
            return
        allowed = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise ArgumentTypeError(f"{name} must be a {'whole ' if kind is int else ''}number, not {value!r}")
        if not math.isfinite(value) or value < least or (above and value == least):
            raise ArgumentError(f"{name} must be {'above' if above else 'at least'} {least}, not {value!r}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "Recipe":
        """A tested recipe: ``"few_shot"`` for up to about 1,000 unlabelled images, ``"short"`` for a few hundred steps,
        ``"full"`` for a whole schedule with labels; ``changes`` replace single settings.

        Raises:
            ArgumentError, ArgumentTypeError: no such preset, or a setting that a recipe can't have.

        Example:
            >>> ghostify.Recipe.preset("short", steps=1000)
        """
        check_choice("preset", name, tuple(PRESETS))
        values = dict(PRESETS[name])
        if changes.keys() & set(BUDGETS):
            values = {key: value for key, value in values.items() if key not in BUDGETS}
        return cls.from_dict(values | changes)

    @classmethod
    def from_dict(cls, values: PlainData) -> "Recipe":
        """A recipe from plain data: settings by name, defaults for those that are missing.

        Raises:
            ArgumentError, ArgumentTypeError: a name that is no setting, or a value that a recipe can't have.
        """
        known = [f.name for f in fields(cls)]
        unknown = [str(key) for key in values if key not in known]
        if unknown:
            raise ArgumentError(f"a recipe has no setting {unknown[0]!r}; it has {', '.join(known)}")
        return cls(**values)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Recipe":
        """Read a recipe from a YAML file.

        Raises:
            ArgumentError, ArgumentTypeError: no such file, no YAML, or a setting that a recipe can't have.
        """
        values = read_settings(Path(path), "recipe")
        numbers = {f.name for f in fields(cls) if f.type in (float, float | None)}
        for name, value in values.items():
            if isinstance(value, str) and name in numbers:  # YAML 1.1 has 1e-3 for a text
                with contextlib.suppress(ValueError):
                    values[name] = float(value)
        try:
            return cls.from_dict(values)
        except (ArgumentError, ArgumentTypeError) as error:
            raise type(error)(f"recipe {str(path)!r}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as YAML, every setting in it.

        Raises:
            ArgumentError: the file can't be written; one that was there before is whole.
        """
        import yaml

        write_text(Path(path), yaml.safe_dump(asdict(self), sort_keys=False))


def _check_optimizer(name: object) -> None:
    """Refuse a name that timm has no optimizer for, and name those like it."""
    from timm.optim import list_optimizers

    known = [str(optimizer) for optimizer in list_optimizers()]
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.optim.list_optimizers() has all names"
        raise ArgumentError(f"optimizer {name!r} is none of timm's: {hint}")


PRESETS: dict[str, PlainData] = {
    "few_shot": {"steps": 1000, "batch_size": 64, "lr": 0.001},
    "short": {"steps": 400, "lr": 0.002},
    "full": {"epochs": 200, "lr": 0.005, "labels": 0.5, "weight_decay": 5e-4},
}
