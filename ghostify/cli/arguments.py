"""What the options of a command become: networks, students, shapes, numbers."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import ArgumentError

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
    from ..conversion.convert import convert
    from ..exploration.sensitivity import sensitivity as measure_sites

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

    from ..inputs.zoo import create_model

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
    from ..inputs.zoo import check_name
    from ..students.weights import load_weights

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
