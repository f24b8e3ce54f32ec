"""sensitivity(): what each site costs at each ratio, measured one site at a time while all others are as they were."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.calls import Arguments
from ..common.checks import check_choice, check_model, whole_number
from ..common.copying import channels_last, copy_swapped
from ..common.parallel import Engine, run_parallel
from ..common.progress import site_bar
from ..common.random_state import without_caller_modes
from ..common.tensors import checksum_of_values, checksum_of_weights
from ..conversion.one_pass import measure_in_one_pass
from ..conversion.plan import make_plan, nothing_to_convert
from ..conversion.sensitivity_table import Header, Sensitivity, SiteSensitivity, check_header
from ..conversion.settings import GhostConfig
from ..errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from ..graph.find_sites import find_sites, trace_layers
from ..inputs.examples import running_input
from ..inputs.image_range import range_warning
from ..inputs.images import ImageData, as_calls, peek
from ..losses import main_output
from ..tasks.task import Outputs
from .score_comparison import ScoreComparison
from .site_scan import Plans, SiteScan


def sensitivity(
    model: nn.Module,
    images: ImageData,
    ratios: Sequence[float] = (1.5, 2, 3, 4),
    *,
    method: str = "site_by_site",
    cheap: str = "auto",
    dw_size: int = 3,
    labels: object = None,
    max_images: int = 256,
    batch_size: int = 32,
    outputs: Outputs = main_output,
    out: str | Path | None = None,
    workers: int = 1,
    engine: str = "local",
    address: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Sensitivity:
    """Measure what each site loses at each ratio, while all others stay as they are.

    Site by site, each in turn is replaced by a Ghost module that is fitted in closed form to the images, and the network is run
    to its end. In one pass, the images are run through the original once, and regressions tell what each span loses at every
    number of its maps when its readers absorb the others: in about the time of one calibration, for ``cheap="absorbed"``.
    ``convert(model, target=..., sensitivity=...)`` gives each site, or span, its ratio by the result.

    Args:
        model: the original network; it is not changed.
        images: as for :func:`ghostify.calibrate`.
        ratios: to be tried, each above 1; of one pass those that the table shows, while it knows them all.
        method: ``"site_by_site"``, for Ghost modules; or ``"one_pass"``, for absorbed ghosts.
        cheap, dw_size: as for :func:`ghostify.convert`, and to be the same there. One pass leaves ``cheap`` as it is, or takes
            ``"absorbed"``, which means the same.
        labels: (N,) classes of the images, for a top-1 as well; site by site.
        max_images: images beyond this many are not read.
        batch_size: images at a time.
        outputs: from what the model returns to its class scores, in a list; see :func:`ghostify.losses.main_output`.
        out: a JSON file that is written after each site. If it is there already, only what it lacks is measured: sites after an
            interruption, or further ratios.
        workers: processes, each with its share of the sites and of the machine's threads; site by site.
        engine: ``"local"``, or ``"ray"`` for tasks on a Ray cluster, as many at a time as it has room for with ``workers=1``.
        address: of the Ray cluster; None for the one this machine belongs to.
        seed: of the positions that wide layers sample.
        progress: show a progress bar.

    Returns:
        For each site and ratio: the relative error of the site's output; the Kullback-Leibler divergence of the model's
        class probabilities, in nats, mean over images (None for a model without class scores); and top-1. Of one pass for each
        span and ratio the error of what its readers give, relative to the variance of the outputs of their blocks.

    Raises:
        ArgumentError, ArgumentTypeError: a setting or an image that can't be used, or ``out`` holds another measurement.
        UnsupportedModelError: nothing in the model can be converted.

    Example:
        >>> found = ghostify.sensitivity(teacher, images, progress=True)
        >>> student = ghostify.convert(teacher, target={"flops": 0.5}, cheap="auto", sensitivity=found)
        >>> found = ghostify.sensitivity(teacher, images, method="one_pass")
        >>> student = ghostify.convert(teacher, target={"flops": 0.5}, cheap="absorbed", sensitivity=found)
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    check_model(model)
    check_choice("method", method, ("site_by_site", "one_pass"))
    where = Engine(engine, workers, address=address if engine == "ray" else None)
    max_images, batch_size = whole_number("max_images", max_images, 1), whole_number("batch_size", batch_size, 1)
    ratios, path = _sorted_ratios(ratios), None if out is None else Path(out)
    config = GhostConfig(max(ratios), dw_size, cheap, seed=whole_number("seed", seed, 0) % 2**32)
    if method == "one_pass":
        if labels is not None or not where.is_this_process:
            raise ArgumentError("labels, workers and engine go with method='site_by_site'")
        return measure_in_one_pass(model, images, config, ratios, max_images, batch_size, path, progress)
    plans = _make_plans(model, ratios, config)
    with without_caller_modes(next(model.parameters()).device), torch.no_grad():
        original = channels_last(copy_swapped(model, {})).eval()
        first, batches = peek(as_calls(images, original, max_images, batch_size))
        warning = range_warning(original, first)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        calls = [(tuple(map(channels_last, args)), kwargs) for args, kwargs in batches]
        comparison = ScoreComparison(original, calls, outputs, _labels_of(calls, labels))
        table = Sensitivity(_header(type(model).__name__, comparison, config, ratios), (), comparison.original_top1())
        if path is not None and path.exists():
            table = _read_table(path, table.header)
        scan = SiteScan(comparison, _missing_from(table, plans), cheap == "auto", config.seed)
        return _completed(table, plans, scan, where, path, progress)


def _sorted_ratios(ratios: Iterable[float]) -> tuple[float, ...]:
    """The ratios in increasing order, each once."""
    try:
        numbers = None if isinstance(ratios, (str, bytes)) else tuple(sorted({float(ratio) for ratio in ratios}))
    except (TypeError, ValueError):
        numbers = None
    if not numbers:
        raise ArgumentTypeError(f"ratios must be numbers above 1 in a list, not {ratios!r}")
    return numbers


def _make_plans(model: nn.Module, ratios: Sequence[float], config: GhostConfig) -> Plans:
    """Sites in execution order, and what becomes of each at each ratio.

    Raises:
        ArgumentError: ghosts that are absorbed stand at no site.
        UnsupportedModelError: no site can be converted at any of the ratios.
    """
    if config.cheap == "absorbed":
        raise ArgumentError("cheap='absorbed' goes with method='one_pass'")
    sites = find_sites(model, trace_layers(model, running_input(model)))
    plans: Plans = {}
    for ratio in ratios:
        for planned in make_plan(sites, replace(config, ratio=ratio)):
            if planned.ratio is not None:
                plans.setdefault(planned.site.name, {})[ratio] = planned
    if not plans:
        raise UnsupportedModelError(nothing_to_convert(model, [planned.reason for planned in make_plan(sites, config)]))
    return {site.name: plans[site.name] for site in sites if site.name in plans}


def _labels_of(calls: Sequence[Arguments], labels: object) -> list[Tensor] | None:
    """The labels batch by batch.

    Raises:
        ArgumentError, ArgumentTypeError: they are not a class for each image.
    """
    if labels is None:
        return None
    sizes = [len(args[0]) for args, _ in calls]
    try:
        classes = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"labels must be whole numbers, a class for each image: {error}") from error
    if classes.dim() != 1 or len(classes) < sum(sizes) or classes.is_floating_point():
        raise ArgumentError(f"labels must be a class for each of the {sum(sizes)} images, not of shape {tuple(classes.shape)}")
    return list(classes[: sum(sizes)].split(sizes))


def _header(name: str, comparison: ScoreComparison, config: GhostConfig, ratios: tuple[float, ...]) -> Header:
    """What is measured, and how.

    Args:
        name: of the model's class.
        comparison: the original, the images and the labels.
        config: settings of the conversion.
        ratios: that are measured.
    """
    images = [args[0] for args, _ in comparison.calls]
    return Header(
        model=name,
        images=sum(map(len, images)),
        ratios=ratios,
        cheap=config.cheap,
        dw_size=config.dw_size,
        seed=config.seed,
        weights=checksum_of_weights(comparison.original),
        pixels=checksum_of_values(images),
        labels=checksum_of_values(comparison.labels or []),
    )


def _read_table(path: Path, header: Header) -> Sensitivity:
    """The table of an earlier call, which is to get the ratios of this one as well.

    Raises:
        ArgumentError: the file holds another measurement, or no measurement.
    """
    table = Sensitivity.load(path)
    check_header(table, header, path)
    return replace(table, header=replace(header, ratios=tuple(sorted({*table.header.ratios, *header.ratios}))))


def _completed(
    table: Sensitivity, plans: Plans, scan: SiteScan, engine: Engine, path: Path | None, progress: bool
) -> Sensitivity:
    """The table with the rows that the scan measures, written after each site."""
    with site_bar("measuring", len(plans), progress) as advance:
        for name in plans.keys() - scan.plans.keys():
            advance(name)
        for rows in _measure(scan, engine):
            table = table.with_rows(rows, list(plans))
            if path is not None:
                table.save(path)
            advance(rows[0].name)
    return table


def _missing_from(table: Sensitivity, plans: Plans) -> Plans:
    """The plans of which the table has no row; sites that have all their rows are left out."""
    known = {(row.name, row.ratio) for row in table.rows}
    missing = {
        name: {ratio: planned for ratio, planned in by_ratio.items() if (name, ratio) not in known}
        for name, by_ratio in plans.items()
    }
    return {name: by_ratio for name, by_ratio in missing.items() if by_ratio}


def _measure(scan: SiteScan, engine: Engine) -> Iterator[list[SiteSensitivity]]:
    """The rows of each site, as they come."""
    names = list(scan.plans)
    if engine.is_this_process:
        yield from scan.run(names)
        return
    # neighbours together, since each worker has to run the network up to its first site
    size = max(1, -(-len(names) // (4 * engine.workers)))
    shares = [names[start : start + size] for start in range(0, len(names), size)]
    for rows_of_sites in run_parallel(_measure_share, scan, shares, engine):
        yield from rows_of_sites


def _measure_share(scan: SiteScan, names: list[str]) -> list[list[SiteSensitivity]]:
    with torch.no_grad():
        return list(scan.run(names))
