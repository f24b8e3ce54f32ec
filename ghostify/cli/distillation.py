"""The command that distils."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ArgumentError
from .calibration import calibrate_quietly
from .networks import make_student, trained_network
from .option_groups import ConversionOptions, Group, NetworkOptions, with_option_groups
from .options import Json
from .output import print_report

if TYPE_CHECKING:
    from torch import nn

    from ..distillation.training_recipe import Recipe

CALIBRATION_IMAGES = 256  # of --train, for a student that the command makes itself


@dataclass(frozen=True)
class RecipeOptions:
    """How long and with which recipe a command distils."""

    recipe: Annotated[str, typer.Option(help="few_shot, short or full, or a YAML file.")] = "short"
    epochs: Annotated[int | None, typer.Option(help="Budget in place of the recipe's.")] = None
    steps: Annotated[int | None, typer.Option(help="Budget in place of the recipe's.")] = None
    minutes: Annotated[float | None, typer.Option(help="Budget in place of the recipe's.")] = None


@with_option_groups
def recover(
    *,
    train: Annotated[str, typer.Option(help="Folder of pictures, .npy file, or a data set of timm's, such as torch/cifar10.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, student.safetensors, history.csv and curve.png.")],
    network: Annotated[NetworkOptions, Group()],
    student: Annotated[Path | None, typer.Option(help="Student that calibrate wrote; without, one is made first.")] = None,
    val: Annotated[str | None, typer.Option(help="As --train; the best weights by it are kept.")] = None,
    training: Annotated[RecipeOptions, Group()],
    conversion: Annotated[ConversionOptions, Group(without=("dw_size", "only_if_faster"), defaults={"cheap": "auto"})],
    workers: Annotated[int | None, typer.Option(help="Processes that read pictures.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Distil a student from its original: on one machine, or under torchrun or accelerate launch on many.

    Without --student the model is converted and calibrated on 256 images of --train first.

    Examples:

        ghostify recover resnet50 --pretrained --train train/ --val val/ --steps 2000 --out run

        ghostify recover resnet50 --pretrained --student resnet50_ghost.safetensors --train train/ --recipe full --out run

        torchrun --nproc-per-node 4 -m ghostify recover resnet50 --pretrained --train train/ --out run
    """
    from ..common.processes import process_state
    from ..distillation.distill import distill
    from ..students.storage import load

    recipe = _read_recipe(training)
    written = out / "student.safetensors"
    teacher = trained_network(network, written).eval()
    is_main = process_state().is_main_process
    progress = sys.stderr.isatty() and is_main
    calibrated = out / "calibrated.safetensors"
    if student is None and resume and calibrated.exists():
        student = calibrated
    if student is not None:
        start = load(student, factory=teacher)
    else:
        start = _calibrated_student(teacher, conversion, train, calibrated, is_main, progress)
    recovery = distill(
        start, teacher, train, val=val, recipe=recipe, out=out, resume=resume, workers=workers, progress=progress
    )
    if is_main:
        print_report(recovery, as_json, written=written)


def _read_recipe(options: RecipeOptions) -> "Recipe":
    """The preset or the file of that name, with the budget that the options give in place of its own."""
    from ..distillation.training_recipe import PRESETS, Recipe

    name = options.recipe
    if name not in PRESETS and not Path(name).is_file():
        raise ArgumentError(f"--recipe {name!r} is neither one of {', '.join(PRESETS)} nor a file")
    recipe = Recipe.preset(name) if name in PRESETS else Recipe.load(name)
    if (options.epochs, options.steps, options.minutes) == (None, None, None):
        return recipe
    return replace(recipe, epochs=options.epochs, steps=options.steps, minutes=options.minutes)


def _calibrated_student(
    teacher: "nn.Module", conversion: ConversionOptions, train: str, path: Path, is_main: bool, progress: bool
) -> "nn.Module":
    """A new student, calibrated on some of the training images; the main process writes it, for a run that is resumed."""
    from ..students.storage import save

    if not Path(train).exists():
        raise ArgumentError(f"--train {train!r} is no folder and no file to calibrate on: give --student")
    student = make_student(teacher, conversion, images=train)
    calibrate_quietly(student, teacher, train, max_images=CALIBRATION_IMAGES, progress=progress)
    if is_main:
        save(student, path)
    return student
