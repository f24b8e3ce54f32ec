"""sweep(): many conversions of a model, each with settings of its own; what is done is not done again."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..common.files import write_text
from ..common.fingerprints import fingerprint
from ..common.parallel import Engine, run_parallel
from ..common.progress import site_bar
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.images import ImageData
from ..inputs.sources import LabelledData
from .run_trial import SensitivityKey, SweepData, run_trial
from .sensitivity import sensitivity
from .sweep_result import SweepResult
from .trial import FORMAT, Trial, TrialResult
from .trial_grid import Grid, make_trials

MEASURED_IMAGES = 64  # images that targets are shared out by


def sweep(
    model: nn.Module | str | Mapping[str, nn.Module | str],
    grid: Grid | Sequence[Grid],
    *,
    images: ImageData,
    val: LabelledData,
    out: str | Path,
    train: LabelledData | None = None,
    engine: str = "local",
    workers: int = 1,
    resources: Mapping[str, float] | None = None,
    address: str | None = None,
    retry: bool = False,
    progress: bool = False,
) -> SweepResult:
    """Try every combination of settings, and measure size and accuracy of each.

    Each trial converts, calibrates, recovers where asked to, and is measured, its latency in turns with the original's; it has
    a folder in ``out``. A sweep that was interrupted, or has got more settings since, goes on with what is missing. A trial
    that fails is written down with its error, and the others go on.

    Args:
        model: the original; or a name such as ``"timm/resnet50"``, with its pretrained weights; or several of them by name.
        grid: for each setting the values to try: those of :func:`ghostify.convert` (``ratio``, ``target``, ``dw_size``,
            ``cheap``, ...); ``method`` of calibration, or ``"none"``; ``recover``, steps of distillation or the settings of a
            :class:`ghostify.Recipe`; ``seed``; ``runtime``, where a trial is timed, PyTorch itself without. ``max_drop``, and a
            ``target`` of latency together with ``runtime``, are searched for as by :func:`ghostify.compress`, by ``val``. A
            list of grids is tried one after the other.
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
    where = Engine(engine, workers, resources, address)
    models = dict(model) if isinstance(model, Mapping) else {_name_of(model): model}
    if not models:
        raise ArgumentError("model is an empty mapping: give at least one")
    for name, value in (("images", images), ("val", val), ("train", train)):
        if isinstance(value, Iterator):
            raise ArgumentTypeError(f"{name} must be data that can be read again and again, not a {type(value).__name__}")
    trials = make_trials(grid, list(models))
    folder = Path(out)
    is_new = not (folder / "sweep.json").exists()
    _open_folder(folder, models, images, val)
    data = SweepData(models, images, val, images if train is None else train, folder)
    if is_new:
        originals = [Trial({"model": name}) for name in models]
        _check_originals(folder, list(run_parallel(run_trial, data, originals, where)))
    done = SweepResult.load(folder).named(include_failed=not retry)
    missing = [trial for trial in trials if trial.name not in done]
    if missing:
        data = replace(data, sensitivities=_measure_sites(data, missing, where, progress))
        with site_bar("sweeping", len(trials), progress) as advance:
            for _ in range(len(trials) - len(missing)):
                advance("")
            for result in run_parallel(run_trial, data, missing, where):
                advance(Trial(result.settings).name)
    return SweepResult.load(folder)


def _name_of(model: object) -> str:
    if isinstance(model, str):
        return model
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, a name, or several by name, not {type(model).__name__}")
    return type(model).__name__


def _open_folder(out: Path, models: Mapping[str, object], images: object, val: object) -> None:
    """Begin the folder of a sweep, or go on with one of the same models and data.

    Raises:
        ArgumentError: it is another sweep's, or something else's.
    """
    header = {
        "format": FORMAT,
        "models": {name: fingerprint(model) for name, model in models.items()},
        "images": fingerprint(images),
        "val": fingerprint(val),
    }
    path = out / "sweep.json"
    if out.is_file() or (out.is_dir() and not path.exists() and any(out.iterdir())):
        raise ArgumentError(f"out {str(out)!r} is not a folder of a sweep: choose an empty one")
    if not path.exists():
        write_text(path, json.dumps(header, indent=1) + "\n")
        return
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArgumentError(f"out {str(out)!r} can't be read ({error}): choose another folder") from error
    for key, value in header.items():
        if stored.get(key) != value:
            raise ArgumentError(f"out {str(out)!r} holds another sweep, with other {key}: choose another folder")


def _check_originals(folder: Path, originals: Sequence[TrialResult]) -> None:
    """Stop where no original could be measured, so that no trial can be; the folder is left as if nothing had been.

    Raises:
        ArgumentError: the first original's error.
    """
    if all(result.error for result in originals):
        shutil.rmtree(folder / "trials")
        (folder / "sweep.json").unlink()
        raise ArgumentError(f"no trial could be measured, since the original can't be: {originals[0].error}")


def _measure_sites(data: SweepData, trials: Sequence[Trial], engine: Engine, progress: bool) -> dict[SensitivityKey, Path]:
    """Measure the sensitivities that targets are shared out by, each into a file that trials read."""
    paths: dict[SensitivityKey, Path] = {}
    for trial in trials:
        key = SensitivityKey.of(trial.settings)
        if trial.settings.get("target") is None or trial.is_compression or key in paths:
            continue
        paths[key] = data.out / f"sensitivity_{fingerprint(key.model)}_{key.cheap}_{key.dw_size}.json"
        if key.cheap == "absorbed":
            sensitivity(
                data.model(key.model),
                data.images,
                method="one_pass",
                max_images=MEASURED_IMAGES,
                out=paths[key],
                progress=progress,
            )
            continue
        sensitivity(
            data.model(key.model),
            data.images,
            cheap=key.cheap,
            dw_size=key.dw_size,
            max_images=MEASURED_IMAGES,
            out=paths[key],
            workers=engine.workers,
            engine=engine.name,
            address=engine.address,
            progress=progress,
        )
    return paths
