"""The networks that a command works on: the original, with or without its weights, and the student."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError
from .arguments import parse_ratios, parse_shape, parse_target
from .option_groups import ConversionOptions, NetworkOptions

if TYPE_CHECKING:
    from torch import nn

    from ..conversion.sensitivity_table import Sensitivity

MEASURED_IMAGES = 64  # images that a target is shared out by


def make_network(options: NetworkOptions, device: str = "cpu") -> "nn.Module":
    """The model by its name or from the user's factory; ``weights`` are not loaded.

    Raises:
        ArgumentError: neither or both are given, the name is not known, or the factory can't be used.
    """
    from ..inputs.zoo import create_model

    if (options.model is None) == (options.factory is None):
        raise ArgumentError("give either the name of a model or --factory package.module:function")
    if options.model is not None:
        return create_model(options.model, pretrained=options.pretrained, device=device)
    return _call_factory(str(options.factory), device)


def trained_network(options: NetworkOptions, out: Path) -> "nn.Module":
    """The network with its weights, for a command that writes ``out``.

    Raises:
        ArgumentError: ``out`` can't be written, options that contradict each other, or no weights.
    """
    from ..inputs.zoo import check_name
    from ..students.weights import load_weights

    if out.is_dir() or (out.parent.exists() and not out.parent.is_dir()):
        raise ArgumentError(f"--out {str(out)!r} can't be written: it is a folder, or lies in a file")
    if options.weights is not None and options.pretrained:
        raise ArgumentError("give either --weights or --pretrained, not both")
    if options.model is not None:
        check_name(options.model)
    if options.weights is None and not options.pretrained and options.factory is None:
        raise ArgumentError("give --weights FILE or --pretrained: converting random weights is of no use")
    if options.pretrained and options.factory is not None:
        raise ArgumentError("--pretrained goes with a model name, not with --factory")
    network = make_network(options)
    if options.weights is not None:
        load_weights(network, options.weights)
    return network


def make_student(
    network: "nn.Module", options: ConversionOptions, *, inplace: bool = False, images: str | Path | None = None
) -> "nn.Module":
    """:func:`ghostify.convert` with the options of a command.

    Args:
        network: the original.
        options: of the conversion.
        inplace: change ``network`` itself.
        images: what the command reads pictures from; a target that comes without a sensitivity is shared out by what some of
            these tell.
    """
    from ..conversion.convert import convert

    target = None if options.target is None else parse_target(options.target)
    settings: dict[str, Any] = {
        "target": target,
        "dw_size": options.dw_size,
        "cheap": options.cheap,
        "ratios": parse_ratios(options.ratios),
        "linear_ratio": options.linear_ratio,
    }
    if target is not None:
        settings["example_input"] = parse_shape(options.input)
        if options.sensitivity is None and images is not None:
            convert(network, options.ratio, **settings)  # what can't be done is said before the work
            if options.cheap == "absorbed":
                settings |= {"images": images, "progress": sys.stderr.isatty()}
            else:
                settings["sensitivity"] = _measure_sites(network, images, options)
    if options.sensitivity is not None:
        settings["sensitivity"] = options.sensitivity
    if options.only_if_faster is not None:
        settings["only_if_faster"] = options.only_if_faster
        settings["example_input"] = parse_shape(options.input)
        settings["progress"] = sys.stderr.isatty()
    return convert(network, options.ratio, inplace=inplace, **settings)


def _measure_sites(network: "nn.Module", images: str | Path, options: ConversionOptions) -> "Sensitivity":
    from ..exploration.sensitivity import sensitivity

    return sensitivity(
        network,
        images,
        cheap=options.cheap,
        dw_size=options.dw_size,
        max_images=MEASURED_IMAGES,
        progress=sys.stderr.isatty(),
    )


def _call_factory(factory: str, device: str) -> "nn.Module":
    import torch
    from torch import nn

    build = _import_factory(factory)
    try:
        try:
            with torch.device(device):
                network = build()
        except (NotImplementedError, RuntimeError):  # its constructor computes with values
            network = build().to(device)
    except Exception as error:  # the user's own code
        raise ArgumentError(f"--factory {factory!r} can't be called without arguments: {error}") from error
    if not isinstance(network, nn.Module):
        raise ArgumentError(f"--factory {factory!r} returned {type(network).__name__}, not a torch.nn.Module")
    return network


def _import_factory(factory: str) -> Callable[[], "nn.Module"]:
    module_name, _, function = factory.partition(":")
    if not module_name or not function:
        raise ArgumentError(f"--factory {factory!r} is not of the form package.module:function, so it can't be imported")
    sys.path.insert(0, os.getcwd())  # a factory usually stands in the folder one works in
    try:
        return getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ArgumentError(f"--factory {factory!r} can't be imported: {error}") from error
