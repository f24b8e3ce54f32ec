"""sensitivity(): what each site costs at each ratio, measured one site at a time while all others are as they were."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.image_range import range_warning
from ..common.calls import Arguments
from ..common.checks import check_choice, check_model, whole_number
from ..common.copying import channels_last, copy_swapped
from ..common.progress import site_bar
from ..common.random_state import as_usual
from ..common.tensors import checksum_of, checksum_of_weights
from ..conversion.plan import GhostConfig, make_plan, nothing_to_convert
from ..conversion.sensitivity_table import Header, Sensitivity, SiteSensitivity, check_header
from ..errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from ..graph.find_sites import find_sites
from ..inputs.images import as_calls, peek
from ..losses import main_output
from ..surgery.planned import PlannedSite
from .site_scan import Scan

ENGINES = ("local", "ray")


def sensitivity(
    model: nn.Module,
    images: Any,
    ratios: Sequence[float] = (1.5, 2, 3, 4),
    *,
    cheap: str = "auto",
    dw_size: int = 3,
    labels: Any = None,
    max_images: int = 256,
    batch_size: int = 32,
    outputs: Callable[[Any], Sequence[Tensor]] = main_output,
    out: str | Path | None = None,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Sensitivity:
    """Measure what each site loses at each ratio, while all others stay as they are.

    Each site in turn is replaced by a Ghost module that is fitted in closed form to the images, and the network is run to
    its end. The result tells which sites bear much and which little; ``convert(model, target=..., sensitivity=...)``
    gives each its ratio by it.

    Args:
        model: the original network; it is not changed.
        images: as for :func:`ghostify.calibrate`.
        ratios: to be tried, each above 1.
        cheap, dw_size: as for :func:`ghostify.convert`, and to be the same there.
        labels: (N,) classes of the images, for a top-1 as well.
        max_images: images beyond this many are not read.
        batch_size: images at a time.
        outputs: from what the model returns to its class scores, in a list; see :func:`ghostify.losses.main_output`.
        out: a JSON file that is written after each site. If it is there already, only what it lacks is measured: sites after an
            interruption, or further ratios.
        workers: processes, each with its share of the sites and of the machine's threads.
        engine: ``"local"``, or ``"ray"`` for tasks on a Ray cluster, as many at a time as it has room for with ``workers=1``.
        address: of the Ray cluster; None for the one this machine belongs to.
        seed: of the positions that wide layers sample.
        progress: show a progress bar.

    Returns:
        For each site and ratio: the relative error of the site's output; the Kullback-Leibler divergence of the model's
        class probabilities, in nats, mean over images (None for a model without class scores); and top-1.

    Raises:
        ArgumentError, ArgumentTypeError: a setting or an image that can't be used, or ``out`` holds another measurement.
        UnsupportedModelError: nothing in the model can be converted.

    Example:
        >>> found = ghostify.sensitivity(teacher, images, progress=True)
        >>> student = ghostify.convert(teacher, target={"flops": 0.5}, cheap="auto", sensitivity=found)
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    check_model(model)
    check_choice("engine", engine, ENGINES)
    max_images, batch_size, workers = (
        whole_number(name, value, 1)
        for name, value in (("max_images", max_images), ("batch_size", batch_size), ("workers", workers))
    )
    seed = whole_number("seed", seed, 0) % 2**32
    tried = _numbers(ratios)
    plans = _plans(model, tried, cheap, dw_size)
    with as_usual(next(model.parameters()).device), torch.no_grad():
        original = channels_last(copy_swapped(model, {})).eval()
        first, calls = peek(as_calls(images, original, max_images, batch_size))
        warning = range_warning(original, first)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        held = [(tuple(map(channels_last, args)), kwargs) for args, kwargs in calls]
        classes = _classes(labels, held)
        scan = Scan(original, held, plans, cheap == "auto", outputs, classes, seed)
        header = Header(
            type(model).__name__, scan.images, tried, cheap, dw_size, seed,
            checksum_of_weights(original), checksum_of([args[0] for args, _ in held]), checksum_of(classes or []),
        )  # fmt: skip
        found = Sensitivity(header, (), scan.top1())
        path = None if out is None else Path(out)
        if path is not None and path.exists():
            found = Sensitivity.load(path)
            check_header(found, header, path)
            known = {(row.name, row.ratio) for row in found.rows}
            scan.plans = {
                name: new
                for name, ways in plans.items()
                if (new := {ratio: planned for ratio, planned in ways.items() if (name, ratio) not in known})
            }
            found = replace(found, header=replace(header, ratios=tuple(sorted({*found.header.ratios, *tried}))))
        left = list(scan.plans)
        with site_bar("measuring", len(plans), progress) as advance:
            for name in plans.keys() - scan.plans.keys():
                advance(name)
            for rows in _measured(scan, left, workers, engine, address):
                found = found.with_rows(rows, list(plans))
                if path is not None:
                    found.save(path)
                advance(rows[0].name)
    return found


def _numbers(ratios: Any) -> tuple[float, ...]:
    """In increasing order, each once."""
    try:
        made = None if isinstance(ratios, (str, bytes)) else tuple(sorted({float(ratio) for ratio in ratios}))
    except (TypeError, ValueError):
        made = None
    if not made:
        raise ArgumentTypeError(f"ratios must be numbers above 1 in a list, not {ratios!r}")
    return made


def _plans(model: nn.Module, ratios: Sequence[float], cheap: str, dw_size: int) -> dict[str, dict[float, PlannedSite]]:
    """Sites in execution order, and what becomes of each at each ratio."""
    sites = find_sites(model)
    plans: dict[str, dict[float, PlannedSite]] = {}
    for ratio in ratios:
        for planned in make_plan(sites, GhostConfig(ratio, dw_size, cheap)):
            if planned.ratio is not None:
                plans.setdefault(planned.site.name, {})[ratio] = planned
    if not plans:
        reasons = [planned.reason for planned in make_plan(sites, GhostConfig(max(ratios), dw_size, cheap))]
        raise UnsupportedModelError(nothing_to_convert(model, reasons))
    return {site.name: plans[site.name] for site in sites if site.name in plans}


def _classes(labels: Any, calls: Sequence[Arguments]) -> list[Tensor] | None:
    """Labels batch by batch."""
    if labels is None:
        return None
    sizes = [len(args[0]) for args, _ in calls]
    try:
        made = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"labels must be whole numbers, a class for each image: {error}") from error
    if made.dim() != 1 or len(made) < sum(sizes) or made.is_floating_point():
        raise ArgumentError(f"labels must be a class for each of the {sum(sizes)} images, not of shape {tuple(made.shape)}")
    return list(made[: sum(sizes)].split(sizes))


def _measured(scan: Scan, names: list[str], workers: int, engine: str, address: str | None) -> Iterator[list[SiteSensitivity]]:
    """The rows of each site, as they come."""
    if workers == 1 and engine == "local":
        yield from scan.run(names)
        return
    # neighbours together, since each worker has to run the network up to its first site
    size = max(1, -(-len(names) // (4 * workers)))
    shares = [names[start : start + size] for start in range(0, len(names), size)]
    if engine == "ray":
        from ..common.parallel import run_on_ray

        found = run_on_ray(_run, scan, shares, workers, None, address)
    else:
        import joblib

        tasks = (joblib.delayed(_run)(scan, share) for share in shares)
        found = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(tasks)
    for rows in found:
        yield from rows


def _run(scan: Scan, names: list[str]) -> list[list[SiteSensitivity]]:
    with torch.no_grad():
        return list(scan.run(names))
