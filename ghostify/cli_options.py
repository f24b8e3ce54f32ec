"""What commands have in common: their options, and what these become."""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import ArgumentError

Model = Annotated[str | None, typer.Argument(help="A name: resnet50, timm/..., torchvision/... (ghostify zoo lists them).")]
Factory = Annotated[str | None, typer.Option(help="Your own model: package.module:function, called without arguments.")]
Ratio = Annotated[
    float | None,
    typer.Option(help="s, by default 2: a layer of n channels computes ceil(n / s) and makes the others of those."),
]
Target = Annotated[
    str | None,
    typer.Option(help="In place of --ratio: flops=0.5, params=5M or latency=0.6; each site then gets a ratio of its own."),
]
SensitivityFile = Annotated[Path | None, typer.Option("--sensitivity", help="What ghostify sensitivity wrote, for --target.")]
DwSize = Annotated[int, typer.Option(help="Kernel size of the depthwise cheap operation: 1, 3, 5 or 7.")]
Cheap = Annotated[str, typer.Option(help="depthwise, pointwise or auto.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="GLOB=RATIO for some sites, GLOB=dense to keep them; the last match wins."),
]
LinearRatio = Annotated[float | None, typer.Option(help="Shrink fully connected layers this many times.")]
OnlyIfFaster = Annotated[
    str | None,
    typer.Option(help="A runtime, such as openvino: sites that are not faster there as Ghost modules stay dense."),
]
Input = Annotated[str | None, typer.Option("--input", help="Shape of the input, such as 1x3x224x224; for your own models.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Weights = Annotated[Path | None, typer.Option(help="Weights: safetensors, or a state dict saved by torch.")]
Pretrained = Annotated[bool, typer.Option(help="Fetch the pretrained weights of timm or torchvision.")]

MEASURED = 64  # images that a target is shared out by


def make_student(
    model: Any,
    ratio: float | None,
    dw_size: int,
    cheap: str,
    settings: list[str] | None,
    linear_ratio: float | None,
    target: str | None = None,
    sensitivity: Path | None = None,
    shape: str | None = None,
    inplace: bool = False,
    images: str | Path | None = None,
    only_if_faster: str | None = None,
) -> Any:
    """:func:`ghostify.convert` with the settings of a command. A target that comes without a sensitivity, but with images, is
    shared out by what some of these tell."""
    from .convert import convert
    from .sensitivity import sensitivity as measure_sites

    wanted = None if target is None else parse_target(target)
    options: Any = {"dw_size": dw_size, "cheap": cheap, "ratios": parse_ratios(settings), "linear_ratio": linear_ratio}
    if wanted is not None:
        options["example_input"] = parse_shape(shape)
        if sensitivity is None and images is not None:
            convert(model, ratio, target=wanted, **options)  # what can't be done is said before the work
            options["sensitivity"] = measure_sites(
                model, images, cheap=cheap, dw_size=dw_size, max_images=MEASURED, progress=sys.stderr.isatty()
            )
    if sensitivity is not None:
        options["sensitivity"] = sensitivity
    if only_if_faster is not None:
        options |= {
            "only_if_faster": only_if_faster, "example_input": parse_shape(shape), "progress": sys.stderr.isatty()
        }  # fmt: skip
    return convert(model, ratio, target=wanted, inplace=inplace, **options)


def parse_target(text: str) -> dict[str, str]:
    metric, equals, value = text.partition("=")
    if not equals:
        raise ArgumentError(f"--target {text!r} is not of the form flops=0.5, params=5M or latency=12ms")
    return {metric.strip(): value.strip()}


def make_network(model: str | None, factory: str | None, pretrained: bool = False, device: str = "cpu") -> Any:
    import torch

    from .zoo import create_model

    if (model is None) == (factory is None):
        raise ArgumentError("give either the name of a model or --factory package.module:function")
    if model is not None:
        return create_model(model, pretrained=pretrained, device=device)
    module_name, _, function = str(factory).partition(":")
    if not module_name or not function:
        raise ArgumentError(f"--factory {factory!r} is not of the form package.module:function, so it can't be imported")
    sys.path.insert(0, os.getcwd())  # a factory usually stands in the folder one works in
    try:
        build = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"--factory {factory!r} can't be imported: {error}") from error
    try:
        try:
            with torch.device(device):
                network = build()
        except (NotImplementedError, RuntimeError):  # its constructor computes with values
            network = build().to(device)
    except Exception as error:
        raise ArgumentError(f"--factory {factory!r} can't be called without arguments: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise ArgumentError(f"--factory {factory!r} returned {type(network).__name__}, not a torch.nn.Module")
    return network


def trained_network(out: Path, model: str | None, factory: str | None, weights: Path | None, pretrained: bool) -> Any:
    """The network with its weights, for a command that writes ``out``."""
    from .serialization import load_weights
    from .zoo import check_name

    if out.is_dir() or (out.parent.exists() and not out.parent.is_dir()):
        raise ArgumentError(f"--out {str(out)!r} can't be written: it is a folder, or lies in a file")
    if weights is not None and pretrained:
        raise ArgumentError("give either --weights or --pretrained, not both")
    if model is not None:
        check_name(model)
    if weights is None and not pretrained and factory is None:
        raise ArgumentError("give --weights FILE or --pretrained: converting random weights is of no use")
    if pretrained and factory is not None:
        raise ArgumentError("--pretrained goes with a model name, not with --factory")
    network = make_network(model, factory, pretrained=pretrained)
    if weights is not None:
        load_weights(network, weights)
    return network


def parse_ratios(settings: list[str] | None) -> dict[str, float | None]:
    ratios: dict[str, float | None] = {}
    for setting in settings or []:
        pattern, equals, value = setting.rpartition("=")
        try:
            ratios[pattern] = None if value == "dense" else float(value)
        except ValueError:
            equals = ""
        if not equals or not pattern:
            raise ArgumentError(f"--set {setting!r} is not of the form GLOB=RATIO or GLOB=dense")
    return ratios


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError as error:
        raise ArgumentError(f"--input {text!r} is not of the form 1x3x224x224") from error


def parse_numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ArgumentError(f"{option} {text!r} is not numbers with commas between them") from error


def check_figure(path: Path) -> None:
    """Before long work: a format that can't be drawn."""
    import matplotlib.backend_bases

    formats = matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ArgumentError(f"--plot {str(path)!r} can't be written: its name must end in one of {', '.join(sorted(formats))}")


def save_figure(draw: Any, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    try:
        draw().figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--plot {str(path)!r} can't be written: {error}") from error


def print_report(told: Any, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        print(told.to_json())
    elif sys.stdout.isatty():
        Console().print(told)
    else:
        print(told)
