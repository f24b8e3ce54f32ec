"""The commands that convert a network, or say what that would save."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError
from .arguments import parse_shape
from .networks import make_network, make_student, trained_network
from .option_groups import ConversionOptions, Group, NetworkOptions, with_option_groups
from .options import Json, StudentFile
from .output import print_report, save_figure

if TYPE_CHECKING:
    from ..conversion.make_report import Report


@with_option_groups
def report(
    *,
    network: Annotated[NetworkOptions, Group(without=("weights", "pretrained"))],
    conversion: Annotated[ConversionOptions, Group(without=("target", "sensitivity", "only_if_faster"))],
    counter: Annotated[str, typer.Option(help="Who counts FLOPs: torch, or fvcore, for which weights are made.")] = "torch",
    plot: Annotated[Path | None, typer.Option(help="Also draw a bar chart of the sites into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a conversion would save, site by site. No weights are needed, nor made but for --counter fvcore.

    Examples:

        ghostify report resnet50 --ratio 2

        ghostify report torchvision/vgg16 --linear-ratio 4 --set 'features.2*=dense'

        ghostify report --factory mypackage.nets:build --input 1x3x64x64 --json
    """
    from ..conversion.make_report import report as make_report

    device = "cpu" if counter == "fvcore" else "meta"
    student = make_student(make_network(network, device=device), conversion, inplace=True)
    student_report = make_report(student, parse_shape(conversion.input), counter)
    if plot is not None:
        _save_plot(student_report, plot)
    print_report(student_report, as_json)


def _save_plot(student_report: "Report", path: Path) -> None:
    if student_report.after.flops is None:
        raise ArgumentError("--plot draws FLOPs: give --input, such as 1x3x224x224")
    save_figure(student_report.plot, path)


@with_option_groups
def convert(
    *,
    out: StudentFile,
    network: Annotated[NetworkOptions, Group()],
    conversion: Annotated[ConversionOptions, Group()],
    as_json: Json = False,
) -> None:
    """Convert a model and write the student's weights.

    Examples:

        ghostify convert resnet50 --pretrained --out resnet50_ghost.safetensors

        ghostify convert torchvision/resnet18 --weights resnet18.pth --target flops=0.5 --out student.safetensors

        ghostify convert regnety_016 --pretrained --only-if-faster onnxruntime --out student.safetensors

        ghostify convert --factory mypackage.nets:build --weights net.safetensors --out student.safetensors
    """
    from ..conversion.make_report import report as make_report
    from ..students.storage import save

    student = make_student(trained_network(network, out), conversion, inplace=True)
    student_report = make_report(student, parse_shape(conversion.input))
    save(student, out)
    print_report(student_report, as_json, written=out)
