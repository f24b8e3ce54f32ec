"""latency(): networks timed side by side, on what they may run on."""

import statistics
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..common.checks import check_model, whole_number
from ..common.costs import measure
from ..common.progress import site_bar
from ..common.text import first_line
from ..errors import ArgumentError, ArgumentTypeError
from ..inputs.examples import as_arguments, example_input
from .fold import for_inference
from .latency_report import LatencyReport, Timing
from .runtimes import RUNTIMES, Runtime, runtime_named
from .timing import Load, in_turns, machine, thread_count


def latency(
    models: Mapping[str, nn.Module] | Sequence[nn.Module] | nn.Module,
    input_size: object = None,
    *,
    runtimes: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (1, 8),
    threads: int | None = None,
    repeats: int = 20,
    fold: bool = True,
    progress: bool = False,
) -> LatencyReport:
    """Time networks side by side in one process, taking turns.

    Args:
        models: networks by name, the one that all are compared with first; or in a list; or one alone.
        input_size: shape of one input, such as ``(3, 224, 224)``; None where the first model is one of timm or torchvision.
        runtimes: of ``"eager"``, ``"channels_last"``, ``"compile"``, ``"onnxruntime"``, ``"openvino"``, ``"cuda"`` and
            ``"cuda_compile"``; None for all. One that can't be used here is listed with the reason.
        batch_sizes: of the inputs.
        threads: of each runtime; None for torch's number.
        repeats: turns of each network. A turn is a tenth of a second or two calls, after one that finds the caches cold and is
            not counted. Each fifth of the turns has networks loaded anew: where in memory they come to lie is luck.
        fold: fold all of the networks first (:func:`ghostify.fold`), as one would for use.
        progress: show a progress bar.

    Returns:
        Median and quartiles, and the ratios of latency and of FLOPs beside each other.

    Raises:
        ArgumentError, ArgumentTypeError: a setting that can't be used.

    Example:
        >>> print(ghostify.latency({"dense": resnet50, "student": student}, runtimes=["eager", "openvino"]))
    """
    named = _named(models)
    chosen = [runtime_named(name) for name in (RUNTIMES if runtimes is None else runtimes)]
    sizes = [whole_number("batch_sizes", size, 1) for size in batch_sizes]
    repeats = whole_number("repeats", repeats, 1)
    threads = torch.get_num_threads() if threads is None else whole_number("threads", threads, 1)
    example = _example(next(iter(named.values())), input_size)
    flops = {name: measure(model, (example,)).flops for name, model in named.items()}
    ready = {name: for_inference(model, fold, otherwise=example).cpu() for name, model in named.items()}
    timings: list[Timing] = []
    with thread_count(threads), site_bar("timing", len(chosen) * len(sizes), progress) as advance:
        for runtime in chosen:
            for size in sizes:
                timings += _timed(runtime, size, ready, flops, example, threads, repeats)
                advance(f"{runtime.name}, batch {size}")
    return LatencyReport(tuple(timings), threads, machine())


def _named(models: object) -> dict[str, nn.Module]:
    if isinstance(models, nn.Module):
        models = [models]
    if not isinstance(models, Mapping):
        if not isinstance(models, Sequence) or isinstance(models, str):
            raise ArgumentTypeError(f"models must be networks by name, or in a list, not {type(models).__name__}")
        lone = len(models) == 1
        models = {f"{'' if lone else f'{i}: '}{type(model).__name__}": model for i, model in enumerate(models)}
    if not models:
        raise ArgumentError("models is empty: give at least one network")
    for name, model in models.items():
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"models[{name!r}] must be a torch.nn.Module, not {type(model).__name__}")
        check_model(model)
    return dict(models)


def _example(model: nn.Module, input_size: object) -> Tensor:
    arguments = example_input(model) if input_size is None else as_arguments(model, (1, *_sizes(input_size)))
    if arguments is None or len(arguments) != 1 or not isinstance(arguments[0], Tensor):
        raise ArgumentError(
            f"latency needs an input_size such as (3, 224, 224): {type(model).__name__} does not say what it takes"
        )
    return arguments[0]


def _sizes(input_size: object) -> tuple[int, ...]:
    if not isinstance(input_size, (tuple, list)) or not all(type(size) is int for size in input_size):
        raise ArgumentTypeError(f"input_size must be the shape of one input, such as (3, 224, 224), not {input_size!r}")
    return tuple(input_size)


def _timed(
    runtime: Runtime,
    size: int,
    models: Mapping[str, nn.Module],
    flops: Mapping[str, int],
    example: Tensor,
    threads: int,
    repeats: int,
) -> Iterator[Timing]:
    """Time the networks on one runtime at one batch size."""
    first = next(iter(models))
    x = torch.randn(size, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example.dtype)
    missing = runtime.missing()
    x = x if missing else runtime.placed(x)
    loads, problems = ({}, dict.fromkeys(models, missing)) if missing else _loaded(runtime, models, x, threads)
    seconds = in_turns(loads, x, repeats)
    for name in models:
        network = (name, runtime.name, size, flops[name], flops[first] / max(1, flops[name]))
        if name in problems:
            yield Timing(*network, problem=problems[name])
            continue
        low, median, high = _quartiles(seconds[name])
        ratio = None if first not in seconds else statistics.median(seconds[first]) / median
        yield Timing(*network, median, low, high, ratio)


def _loaded(
    runtime: Runtime, models: Mapping[str, nn.Module], x: Tensor, threads: int
) -> tuple[dict[str, Load], dict[str, str]]:
    """The networks that run on the runtime, ready to be loaded, and what it says of the others."""
    loads: dict[str, Load] = {}
    problems: dict[str, str] = {}
    for name, model in models.items():
        try:
            loads[name] = runtime.prepare(model, x, threads)
            loads[name]()(x)
        except Exception as error:  # whatever a runtime says of a network that it can't take
            problems[name] = first_line(error)
            loads.pop(name, None)
    return loads, problems


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
