"""The command that converts and calibrates."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .networks import make_student, trained_network
from .option_groups import ConversionOptions, Group, NetworkOptions, with_option_groups
from .options import Images, Json, MostImages, StudentFile
from .output import check_figure, print_report, save_figure

if TYPE_CHECKING:
    from torch import nn

    from ..calibration.report import CalibrationReport


@with_option_groups
def calibrate(
    *,
    images: Images,
    out: StudentFile,
    network: Annotated[NetworkOptions, Group()],
    conversion: Annotated[ConversionOptions, Group(defaults={"cheap": "auto"})],
    method: Annotated[str, typer.Option(help="block (best) or least_squares (closed form alone).")] = "block",
    max_images: MostImages = 1024,
    copies: Annotated[int | None, typer.Option(help="Mirrored and shifted copies of each; 0 where that is no picture.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw each site's error into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a model, calibrate the student on a few unlabelled images, and write its weights.

    With --target and without --sensitivity, 64 of the images tell first what each site bears.

    Examples:

        ghostify calibrate resnet50 --pretrained --images pictures/ --out resnet50_ghost.safetensors

        ghostify calibrate resnet50 --pretrained --target flops=0.5 --images pictures/ --out resnet50_ghost.safetensors

        ghostify calibrate --factory mypackage.nets:build --weights net.pth --images few.npy --out student.safetensors
    """
    from ..students.storage import save

    teacher = trained_network(network, out)
    check_figure(plot)
    student = make_student(teacher, conversion, images=images)
    settings = {"method": method, "max_images": max_images, "copies": copies, "progress": sys.stderr.isatty()}
    calibration_report = calibrate_quietly(student, teacher.eval(), images, **settings)
    save(student, out)
    if plot is not None:
        save_figure(calibration_report.plot, plot)
    print_report(calibration_report, as_json, written=out)


def calibrate_quietly(student: "nn.Module", teacher: "nn.Module", images: str | Path, **settings: Any) -> "CalibrationReport":
    """:func:`ghostify.calibrate` without the warning about images whose preprocessing looks wrong: the report repeats it."""
    from ..calibration.calibrate import calibrate

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="images may lack")
        return calibrate(student, teacher, images, **settings)
