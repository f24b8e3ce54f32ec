"""The trials of a grid: every combination of its settings."""

import difflib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

from ..common.checks import check_choice
from ..common.files import PlainData
from ..errors import ArgumentError, ArgumentTypeError
from .trial import KEYS, Trial

Grid = Mapping[str, Sequence[object]]
"""For each setting the values to try."""


def make_trials(grid: object, models: Sequence[str]) -> list[Trial]:
    """Every combination, each once, and the originals before them.

    Args:
        grid: a mapping of settings to lists of values, or a list of such mappings.
        models: names of the originals; a grid without ``"model"`` is for all of them.

    Raises:
        ArgumentError, ArgumentTypeError: a key that there is not, no value, or a value that can't be.
    """
    grids = [grid] if isinstance(grid, Mapping) else grid
    if isinstance(grids, Sequence) and not grids:
        raise ArgumentError("grid is empty")
    if not isinstance(grids, Sequence) or isinstance(grids, str) or not all(isinstance(one, Mapping) for one in grids):
        raise ArgumentTypeError(f"grid must map settings to lists of values, not {grid!r}")
    trials = {trial.name: trial for trial in (Trial({"model": name}) for name in models)}
    for one in grids:
        _check_grid(one)
        values_of = {"model": models, **one}
        for name in values_of["model"]:
            check_choice("grid['model']", name, tuple(models))
        for values in itertools.product(*values_of.values()):
            trial = Trial(_plain(dict(zip(values_of, values, strict=True))))
            trial.check()
            trials[trial.name] = trial
    return list(trials.values())


def _check_grid(grid: Mapping[object, object]) -> None:
    for key, values in grid.items():
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it may have {', '.join(KEYS)}"
            raise ArgumentError(f"grid has the unknown setting {key!r}; {hint}")
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise ArgumentTypeError(f"grid[{key!r}] must be a list of values, not {values!r}")
        if not list(values):
            raise ArgumentError(f"grid[{key!r}] is empty")
    if not grid:
        raise ArgumentError("grid is empty")


def _plain(settings: PlainData) -> PlainData:
    """The settings as they come back from JSON, so that a trial has the same name at every call."""
    try:
        return dict(json.loads(json.dumps(settings, default=lambda value: value.item())))
    except (TypeError, AttributeError) as error:
        raise ArgumentTypeError(f"grid must hold numbers, words and mappings of those: {settings!r}") from error
