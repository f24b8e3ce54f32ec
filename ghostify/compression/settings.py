"""The settings of a compression, checked."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..calibration.calibrate import METHODS
from ..common.checks import check_choice, whole_number
from ..common.files import PlainData
from ..conversion.settings import GhostConfig
from ..conversion.target import Target
from ..deployment.runtimes import runtime_named
from ..distillation.training_recipe import Recipe
from ..errors import ArgumentError, ArgumentTypeError


@dataclass(frozen=True)
class CompressionSettings:
    """The settings of a compression. :func:`ghostify.compress` explains each of them.

    Raises:
        ArgumentError, ArgumentTypeError: a setting is out of range, or does not go with another.
    """

    target: Target | None
    max_drop: float | None
    runtime: str | None
    batch_size: int
    threads: int | None
    ratios: Mapping[str, float | None] = field(default_factory=dict)
    recipe: Recipe | None = None
    method: str = "least_squares"
    max_images: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.target is None) == (self.max_drop is None):
            both = "not both" if self.target is not None else "neither was given"
            raise ArgumentError(f"give target={{'flops': 0.5}} or max_drop=0.01: {both}")
        if self.max_drop is not None:
            if isinstance(self.max_drop, bool) or not isinstance(self.max_drop, (int, float)):
                raise ArgumentTypeError(f"max_drop must be a number such as 0.01, one point, not {self.max_drop!r}")
            if not 0 < self.max_drop < 1:
                raise ArgumentError(f"max_drop must be above 0 and below 1, such as 0.01 for one point, not {self.max_drop!r}")
        for name in ("batch_size", "max_images"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0))
        if self.threads is not None:
            object.__setattr__(self, "threads", whole_number("threads", self.threads, 1))
        check_choice("method", self.method, METHODS)
        if self.recipe is not None and not isinstance(self.recipe, Recipe):
            raise ArgumentTypeError(f"recipe must be a ghostify.Recipe, not {type(self.recipe).__name__}")
        self._check_runtime()
        _ = self.config  # which checks the ratios

    def _check_runtime(self) -> None:
        """Refuse a runtime that can't be used, or that nothing is to be fast on.

        Raises:
            ArgumentError: as said.
        """
        if self.runtime is None:
            if self.target is not None and self.target.metric == "latency":
                raise ArgumentError(
                    "target latency needs runtime=, such as runtime='openvino': what is fast differs among them"
                )
            return
        if self.target is not None and self.target.metric != "latency":
            raise ArgumentError(f"runtime goes with max_drop= or a target of latency, not with one of {self.target.metric}")
        missing = runtime_named(self.runtime).missing()
        if missing is not None:
            raise ArgumentError(f"runtime={self.runtime!r} can't be used here: {missing}")

    @property
    def config(self) -> GhostConfig:
        """The settings of the conversion."""
        return GhostConfig(cheap="absorbed", ratios=self.ratios, seed=self.seed)

    @property
    def metric(self) -> str:
        """What plans share out: FLOPs unless something else is asked for."""
        if self.target is not None:
            return self.target.metric
        return "flops" if self.runtime is None else "latency"

    def to_dict(self) -> PlainData:
        """The settings as plain data, which tell one compression from another."""
        recipe = None if self.recipe is None else asdict(self.recipe)
        plain: PlainData = json.loads(json.dumps({**{k: v for k, v in vars(self).items() if k not in ("target", "recipe")}}))
        return {**plain, "target": None if self.target is None else asdict(self.target), "recipe": recipe}
