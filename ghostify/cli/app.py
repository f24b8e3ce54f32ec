"""The command line: parses, calls the library, prints."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ArgumentError, GhostifyError
from ..version import __version__
from . import deployment, exploration
from .arguments import make_network, make_student, parse_numbers, parse_shape, trained_network
from .options import (
    Cheap,
    DwSize,
    Factory,
    Input,
    Json,
    LinearRatio,
    Model,
    OnlyIfFaster,
    Pretrained,
    Ratio,
    SensitivityFile,
    Set,
    Target,
    Weights,
)
from .output import check_figure, print_report, save_figure

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Convert convolutional networks to Ghost modules, and say what it saves.",
)


def main() -> None:
    """Entry point: a bad argument ends with one sentence and exit code 2."""
    try:
        app()
    except GhostifyError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(2)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ghostify {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def report(
    model: Model = None,
    factory: Factory = None,
    ratio: Ratio = None,
    dw_size: DwSize = 3,
    cheap: Cheap = "depthwise",
    set_: Set = None,
    linear_ratio: LinearRatio = None,
    input_: Input = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw a bar chart of the sites into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a conversion would save, site by site. No weights are needed or made.

    Examples:

        ghostify report resnet50 --ratio 2

        ghostify report torchvision/vgg16 --linear-ratio 4 --set 'features.2*=dense'

        ghostify report --factory mypackage.nets:build --input 1x3x64x64 --json
    """
    from ..conversion.report import report as make_report

    network = make_network(model, factory, device="meta")
    student = make_student(network, ratio, dw_size, cheap, set_, linear_ratio, inplace=True)
    told = make_report(student, parse_shape(input_))
    if plot is not None:
        _save_plot(told, plot)
    print_report(told, as_json)


@app.command()
def convert(
    out: Annotated[Path, typer.Option(help="File to write: safetensors, the recipe in its header.")],
    model: Model = None,
    factory: Factory = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    ratio: Ratio = None,
    target: Target = None,
    sensitivity: SensitivityFile = None,
    dw_size: DwSize = 3,
    cheap: Cheap = "depthwise",
    set_: Set = None,
    linear_ratio: LinearRatio = None,
    only_if_faster: OnlyIfFaster = None,
    input_: Input = None,
    as_json: Json = False,
) -> None:
    """Convert a model and write the student's weights.

    Examples:

        ghostify convert resnet50 --pretrained --out resnet50_ghost.safetensors

        ghostify convert torchvision/resnet18 --weights resnet18.pth --target flops=0.5 --out student.safetensors

        ghostify convert regnety_016 --pretrained --only-if-faster onnxruntime --out student.safetensors

        ghostify convert --factory mypackage.nets:build --weights net.safetensors --out student.safetensors
    """
    from ..conversion.report import report as make_report
    from ..students.storage import save

    network = trained_network(out, model, factory, weights, pretrained)
    student = make_student(
        network, ratio, dw_size, cheap, set_, linear_ratio, target, sensitivity, input_,
        inplace=True, only_if_faster=only_if_faster,
    )  # fmt: skip
    told = make_report(student, parse_shape(input_))
    save(student, out)
    print_report(told, as_json)
    if not as_json:
        print(f"written: {out}")


@app.command()
def calibrate(
    images: Annotated[Path, typer.Option(help="Folder of pictures, or a .npy file of preprocessed ones (N, C, H, W).")],
    out: Annotated[Path, typer.Option(help="File to write: safetensors, the recipe in its header.")],
    model: Model = None,
    factory: Factory = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    ratio: Ratio = None,
    target: Target = None,
    sensitivity: SensitivityFile = None,
    dw_size: DwSize = 3,
    cheap: Cheap = "auto",
    set_: Set = None,
    linear_ratio: LinearRatio = None,
    only_if_faster: OnlyIfFaster = None,
    input_: Input = None,
    method: Annotated[str, typer.Option(help="block (best) or least_squares (closed form alone).")] = "block",
    max_images: Annotated[int, typer.Option(help="Read so many images at most.")] = 1024,
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
    from ..calibration.calibrate import calibrate as make_calibrated
    from ..students.storage import save

    network = trained_network(out, model, factory, weights, pretrained)
    if plot is not None:
        check_figure(plot)
    student = make_student(
        network, ratio, dw_size, cheap, set_, linear_ratio, target, sensitivity, input_,
        images=images, only_if_faster=only_if_faster,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="images may lack")  # the report says it
        told = make_calibrated(
            student, network.eval(), images,
            method=method, max_images=max_images, copies=copies, progress=sys.stderr.isatty(),
        )  # fmt: skip
    save(student, out)
    if plot is not None:
        save_figure(told.plot, plot)
    print_report(told, as_json)
    if not as_json:
        print(f"written: {out}")


@app.command()
def sensitivity(
    images: Annotated[Path, typer.Option(help="Folder of pictures, or a .npy file of preprocessed ones (N, C, H, W).")],
    out: Annotated[Path, typer.Option(help="JSON file to write; what stands there already is not measured again.")],
    model: Model = None,
    factory: Factory = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    ratios: Annotated[str, typer.Option(help="To be tried, with commas between them.")] = "1.5,2,3,4",
    dw_size: DwSize = 3,
    cheap: Cheap = "auto",
    max_images: Annotated[int, typer.Option(help="Read so many images at most.")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that share the sites out.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Also draw a heat map into this file.")] = None,
    as_json: Json = False,
) -> None:
    """Measure what each site loses at each ratio, for --target of the other commands.

    Examples:

        ghostify sensitivity resnet50 --pretrained --images pictures/ --out resnet50.json

        ghostify convert resnet50 --pretrained --cheap auto --target flops=0.5 --sensitivity resnet50.json --out s.safetensors
    """
    from ..exploration.sensitivity import sensitivity as measure_sites

    network = trained_network(out, model, factory, weights, pretrained)
    if plot is not None:
        check_figure(plot)
    found = measure_sites(
        network.eval(), images, parse_numbers("--ratios", ratios),
        cheap=cheap, dw_size=dw_size, max_images=max_images, out=out, workers=workers, progress=sys.stderr.isatty(),
    )  # fmt: skip
    if plot is not None:
        save_figure(found.plot, plot)
    print_report(found, as_json)
    if not as_json:
        print(f"written: {out}")


@app.command()
def recover(
    train: Annotated[str, typer.Option(help="Folder of pictures, .npy file, or a data set of timm's, such as torch/cifar10.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, student.safetensors, history.csv and curve.png.")],
    model: Model = None,
    factory: Factory = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    student: Annotated[Path | None, typer.Option(help="Student that calibrate wrote; without, one is made first.")] = None,
    val: Annotated[str | None, typer.Option(help="As --train; the best weights by it are kept.")] = None,
    recipe: Annotated[str, typer.Option(help="few_shot, short or full, or a YAML file.")] = "short",
    epochs: Annotated[int | None, typer.Option(help="Budget in place of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in place of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in place of the recipe's.")] = None,
    ratio: Ratio = None,
    target: Target = None,
    sensitivity: SensitivityFile = None,
    cheap: Cheap = "auto",
    set_: Set = None,
    linear_ratio: LinearRatio = None,
    input_: Input = None,
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
    from ..calibration.calibrate import calibrate as make_calibrated
    from ..common.processes import process_state
    from ..distillation.distill import distill
    from ..students.storage import load, save

    settings = _recipe(recipe, epochs, steps, minutes)
    network = trained_network(out / "student.safetensors", model, factory, weights, pretrained).eval()
    main_process = process_state().is_main_process
    bar = sys.stderr.isatty() and main_process
    made = out / "calibrated.safetensors"
    if student is None and resume and made.exists():
        student = made
    if student is not None:
        small = load(student, factory=network)
    else:
        if not Path(train).exists():
            raise ArgumentError(f"--train {train!r} is no folder and no file to calibrate on: give --student")
        small = make_student(network, ratio, 3, cheap, set_, linear_ratio, target, sensitivity, input_, images=train)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="images may lack")
            make_calibrated(small, network, train, max_images=256, progress=bar)
        if main_process:
            save(small, made)
    told = distill(small, network, train, val=val, recipe=settings, out=out, resume=resume, workers=workers, progress=bar)
    if main_process:
        print_report(told, as_json)
        if not as_json:
            print(f"written: {out / 'student.safetensors'}")


for command in (exploration.sweep, exploration.pareto, deployment.export, deployment.bench):
    app.command()(command)


@app.command()
def zoo(
    pattern: Annotated[str, typer.Argument(help="Glob over names, such as '*resnet*'.")] = "*",
    as_json: Json = False,
) -> None:
    """List the models that can be named.

    Examples:

        ghostify zoo '*regnety*'

        ghostify zoo 'torchvision/*'
    """
    from fnmatch import fnmatchcase

    from ..inputs.zoo import list_models

    names = [name for name in list_models() if fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[2], pattern)]
    if not names:
        raise ArgumentError(f"no model is called like {pattern!r}")
    print(json.dumps(names) if as_json else "\n".join(names))


@app.command()
def demo(ratio: Ratio = None, as_json: Json = False) -> None:
    """Train a small CNN on handwritten digits, convert it, win accuracy back without labels, and compare. Needs no network.

    Exit code 0 only if the student is smaller and works.
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from ..demo import EPOCHS, IMAGES, STEPS, run_demo

    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training a small CNN on scikit-learn's digits", total=EPOCHS)
        result = run_demo(2 if ratio is None else ratio, lambda: bar.advance(task))
    if as_json:
        print(json.dumps([asdict(line) for line in result.lines]))
    else:
        table = Table(
            title="scikit-learn's digits, accuracy on 500 that were held out",
            caption=f"without a label: calibrated on {IMAGES} images, recovered in {STEPS} steps; time for both; "
            "latency of 256 images",
            box=None,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("model", no_wrap=True)
        for title in ("accuracy", "calibrated", "recovered", "time", "params", "FLOPs", "latency"):
            table.add_column(title, justify="right", no_wrap=True)
        for line in result.lines:
            table.add_row(
                line.name, f"{line.accuracy:.1%}", _share(line.calibrated), _share(line.recovered),
                "" if line.seconds is None else f"{line.seconds:.0f} s", f"{line.params / 1e3:.0f} K",
                f"{line.flops / 1e6:.2f} M", f"{line.latency * 1e3:.1f} ms",
            )  # fmt: skip
        console.print(table)
    if not result.works:
        raise GhostifyError("the student is not smaller, or more than five points behind the original")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _recipe(name: str, epochs: int | None, steps: int | None, minutes: float | None) -> Any:
    from dataclasses import replace

    from ..distillation.recipe import PRESETS, Recipe

    if name not in PRESETS and not Path(name).is_file():
        raise ArgumentError(f"--recipe {name!r} is neither one of {', '.join(PRESETS)} nor a file")
    found = Recipe.preset(name) if name in PRESETS else Recipe.load(name)
    if (epochs, steps, minutes) == (None, None, None):
        return found
    return replace(found, epochs=epochs, steps=steps, minutes=minutes)


def _save_plot(told: Any, path: Path) -> None:
    if told.after.flops is None:
        raise ArgumentError("--plot draws FLOPs: give --input, such as 1x3x224x224")
    save_figure(told.plot, path)
