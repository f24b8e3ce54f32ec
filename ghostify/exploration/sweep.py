"""sweep(): many conversions of a model, each with settings of its own; what is done is not done again."""

import difflib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..common.checks import check_choice, whole_number
from ..common.files import write_text
from ..common.progress import site_bar
from ..errors import ArgumentError, ArgumentTypeError
from .sensitivity import ENGINES, sensitivity
from .sweep_result import SweepResult
from .trial import FORMAT, KEYS, Result, SweepData, Trial, fingerprint, run_trial, sensitivity_key

MEASURED = 64  # images that targets are shared out by


def sweep(
    model: nn.Module | str | Mapping[str, nn.Module | str],
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
    *,
    images: Any,
    val: Any,
    out: str | Path,
    train: Any = None,
    engine: str = "local",
    workers: int = 1,
    resources: Mapping[str, float] | None = None,
    address: str | None = None,
    retry: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Try every combination of settings, and measure size and accuracy of each.

    Each trial converts, calibrates, recovers where asked to, and is measured; it has a folder in ``out``. A sweep that was
    interrupted, or has got more settings since, goes on with what is missing. A trial that fails is written down with its
    error, and the others go on.

    Args:
        model: the original; or a name such as ``"timm/resnet50"``, with its pretrained weights; or several of them by name.
        grid: for each setting the values to try: those of :func:`ghostify.convert` (``ratio``, ``target``, ``dw_size``,
            ``cheap``, ...); ``method`` of calibration, or ``"none"``; ``recover``, steps of distillation or the settings of a
            :class:`ghostify.Recipe`; ``seed``. A list of grids is tried one after the other.
        images: for calibration, as for :func:`ghostify.calibrate`; anything that can be read again and again.
        val: to measure on, as for :func:`ghostify.evaluate`.
        out: a folder for this sweep alone.
        train: for recovery, as for :func:`ghostify.distill`; ``images`` if None.
        engine: ``"local"`` for processes on this machine; ``"ray"`` for tasks on a Ray cluster.
        workers: processes. With Ray, trials at a time; 1 for as many as the cluster has room for.
        resources: of one trial with Ray, such as ``{"num_cpus": 2, "num_gpus": 1}``.
        address: of the Ray cluster; None for the one this machine belongs to.
        retry: run trials again that failed before.
        progress: show a progress bar.

    Returns:
        The trials as a table, their Pareto front, plots and pages; those of an earlier call with the same ``out`` included.

    Raises:
        ArgumentError, ArgumentTypeError: a setting that there is not or can't be; ``out`` holds another sweep; a Ray address
            that does not answer.

    Example:
        >>> found = ghostify.sweep(teacher, {"ratio": [1.5, 2, 3], "cheap": ["auto"]}, images=images, val=(x, y), out="sweep")
        >>> print(found.pareto())
    """
    check_choice("engine", engine, ENGINES)
    workers = whole_number("workers", workers, 1)
    if engine == "local" and (resources is not None or address is not None):
        raise ArgumentError(f"{'resources' if resources is not None else 'address'} goes with engine='ray'")
    models = dict(model) if isinstance(model, Mapping) else {_name(model): model}
    if not models:
        raise ArgumentError("model is an empty mapping: give at least one")
    for name, data in (("images", images), ("val", val), ("train", train)):
        if isinstance(data, Iterator):
            raise ArgumentTypeError(f"{name} must be data that can be read again and again, not a {type(data).__name__}")
    trials = make_trials(grid, list(models))
    path = Path(out)
    new = not (path / "sweep.json").exists()
    folder = _open(path, models, images, val)
    task = SweepData(models, images, val, images if train is None else train, folder)
    if new:
        originals = [Trial({"model": name}) for name in models]
        _check_originals(task, list(_run(task, originals, engine, workers, resources, address)))
    done = SweepResult.load(folder).named(include_failed=not retry)
    missing = [trial for trial in trials if trial.name not in done]
    if missing:
        _measure_sites(task, missing, {"engine": engine, "workers": workers, "address": address, "progress": progress})
        with site_bar("sweeping", len(trials), progress) as advance:
            for _ in range(len(trials) - len(missing)):
                advance("")
            for result in _run(task, missing, engine, workers, resources, address):
                advance(Trial(result.settings).name)
    return SweepResult.load(folder)


def _check_originals(task: SweepData, originals: Sequence[Result]) -> None:
    """
    Raises:
        ArgumentError: none could be measured, so that no trial can be; the folder is left as if nothing had been.
    """
    if all(result.error for result in originals):
        shutil.rmtree(task.out / "trials")
        (task.out / "sweep.json").unlink()
        raise ArgumentError(f"no trial could be measured, since the original can't be: {originals[0].error}")


def make_trials(grid: Any, models: Sequence[str]) -> list[Trial]:
    """Every combination, and the originals before them.

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
        for key, values in one.items():
            if key not in KEYS:
                close = difflib.get_close_matches(str(key), KEYS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it may have {', '.join(KEYS)}"
                raise ArgumentError(f"grid has the unknown setting {key!r}; {hint}")
            if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
                raise ArgumentTypeError(f"grid[{key!r}] must be a list of values, not {values!r}")
            if not list(values):
                raise ArgumentError(f"grid[{key!r}] is empty")
        if not one:
            raise ArgumentError("grid is empty")
        wanted = {"model": models, **one}
        for name in wanted["model"]:
            check_choice("grid['model']", name, tuple(models))
        for values in itertools.product(*wanted.values()):
            trial = Trial(_plain(dict(zip(wanted, values, strict=True))))
            trial.check()
            trials[trial.name] = trial
    return list(trials.values())


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As they come back from JSON, so that a trial has the same name at every call."""
    try:
        return dict(json.loads(json.dumps(settings, default=lambda value: value.item())))
    except (TypeError, AttributeError) as error:
        raise ArgumentTypeError(f"grid must hold numbers, words and mappings of those: {settings!r}") from error


def _name(model: Any) -> str:
    if isinstance(model, str):
        return model
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, a name, or several by name, not {type(model).__name__}")
    return type(model).__name__


def _open(out: Path, models: Mapping[str, Any], images: Any, val: Any) -> Path:
    """The folder of a sweep, new or of the same models and data.

    Raises:
        ArgumentError: it is another sweep's, or something else's.
    """
    wanted = {
        "format": FORMAT, "models": {name: fingerprint(net) for name, net in models.items()},
        "images": fingerprint(images), "val": fingerprint(val),
    }  # fmt: skip
    path = out / "sweep.json"
    if out.is_file() or (out.is_dir() and not path.exists() and any(out.iterdir())):
        raise ArgumentError(f"out {str(out)!r} is not a folder of a sweep: choose an empty one")
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ArgumentError(f"out {str(out)!r} can't be read ({error}): choose another folder") from error
        for key, value in wanted.items():
            if there.get(key) != value:
                raise ArgumentError(f"out {str(out)!r} holds another sweep, with other {key}: choose another folder")
    else:
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    return out


def _measure_sites(task: SweepData, trials: Sequence[Trial], how: dict[str, Any]) -> None:
    """The sensitivities that targets are shared out by, each in a file that trials read."""
    for trial in trials:
        if trial.settings.get("target") is None:
            continue
        key = sensitivity_key(trial.settings)
        if key not in task.sensitivities:
            name, cheap, dw_size = key
            path = task.out / f"sensitivity_{fingerprint(name)}_{cheap}_{dw_size}.json"
            sensitivity(task.model(name), task.images, cheap=cheap, dw_size=dw_size, max_images=MEASURED, out=path, **how)
            task.sensitivities[key] = path


def _run(
    task: SweepData,
    trials: Sequence[Trial],
    engine: str,
    workers: int,
    resources: Mapping[str, float] | None,
    address: str | None,
) -> Iterator[Result]:
    """Trials as they end."""
    if engine == "ray":
        from ..common.parallel import run_on_ray

        yield from run_on_ray(run_trial, task, trials, workers, resources, address)
    elif workers == 1:
        yield from (run_trial(task, trial) for trial in trials)
    else:
        import joblib

        tasks = (joblib.delayed(run_trial)(task, trial) for trial in trials)
        yield from joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)
