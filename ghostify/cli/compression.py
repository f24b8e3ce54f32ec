"""The command that makes a network as small as a limit lets it be."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from .arguments import parse_ratios, parse_share, parse_target
from .networks import trained_network
from .option_groups import Group, NetworkOptions, with_option_groups
from .options import Images, Json, Ratios, StudentFile
from .output import check_figure, print_report, save_figure


@dataclass(frozen=True)
class MakingOptions:
    """How students are timed and calibrated; :func:`ghostify.compress` explains each setting."""

    runtime: Annotated[str | None, typer.Option(help="Where it is to be fast: openvino, onnxruntime, compile, eager.")] = None
    batch_size: Annotated[int, typer.Option(help="Inputs at a time on the runtime.")] = 1
    threads: Annotated[int | None, typer.Option(help="Of the runtime.")] = None
    method: Annotated[str, typer.Option(help="least_squares, or block: it takes longer and loses less.")] = "least_squares"
    max_images: Annotated[int, typer.Option(help="So many of --images choose and calibrate.")] = 256


@with_option_groups
def compress(
    *,
    images: Images,
    out: StudentFile,
    network: Annotated[NetworkOptions, Group()],
    max_drop: Annotated[str | None, typer.Option(help="What the student may lose, such as 1% or 0.01.")] = None,
    target: Annotated[str | None, typer.Option(help="Or what it may cost: flops=0.5, params=5M or latency=0.6.")] = None,
    val: Annotated[
        str | None,
        typer.Option(help="What judges: a folder for each class, a .npz file of images and labels, or a data set of timm's."),
    ] = None,
    making: Annotated[MakingOptions, Group()],
    ratios: Ratios = None,
    run: Annotated[Path | None, typer.Option(help="Folder for each student: the same command goes on from there.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the students into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Make a model as small as a drop that you allow lets it be, or to a target, and write its weights.

    Examples:

        ghostify compress resnet50 --pretrained --images pictures/ --val val/ --max-drop 1% --out resnet50_small.safetensors

        ghostify compress resnet50 --pretrained --images pictures/ --target latency=0.6 --runtime openvino --out s.safetensors
    """
    from ..compression.compress import compress as make_smaller
    from ..students.storage import save

    original = trained_network(network, out)
    check_figure(plot)
    result = make_smaller(
        original.eval(),
        images,
        target=None if target is None else parse_target(target),
        max_drop=None if max_drop is None else parse_share("--max-drop", max_drop),
        val=val,
        ratios=parse_ratios(ratios),
        **vars(making),
        out=run,
        progress=sys.stderr.isatty(),
    )
    save(result.student, out)
    if plot is not None:
        save_figure(result.plot, plot)
    print_report(result.report, as_json)
    if not as_json:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 80).print("", result.report.before_and_after(), f"\nwritten: {out}")
