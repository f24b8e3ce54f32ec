"""The commands that take a student to where it runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .arguments import parse_shape, parse_whole_numbers
from .networks import make_network, make_student
from .option_groups import ConversionOptions, Group, NetworkOptions, with_option_groups
from .options import Factory, Input, Json
from .output import print_report


def export(
    student: Annotated[Path, typer.Argument(help="File or folder that convert, calibrate or recover wrote.")],
    out: Annotated[Path, typer.Option(help="File to write: .onnx, .pt2 (torch.export) or .xml (OpenVINO).")],
    factory: Factory = None,
    input_: Input = None,
    int8: Annotated[
        Path | None,
        typer.Option(help="Quantize to 8 bits by these: a folder of pictures, or a .npy file of preprocessed ones."),
    ] = None,
    max_images: Annotated[int, typer.Option(help="Read so many of them at most.")] = 256,
) -> None:
    """Write a student for ONNX Runtime, OpenVINO or torch.export, read it back there, and compare.

    Examples:

        ghostify export resnet50_ghost.safetensors --out resnet50_ghost.onnx

        ghostify export resnet50_ghost.safetensors --out resnet50_ghost.xml --int8 pictures/
    """
    from ..deployment.export import export as export_student
    from ..students.storage import load

    network = load(student, None if factory is None else make_network(NetworkOptions(factory=factory)))
    path = export_student(network, out, example_input=parse_shape(input_), int8=int8, max_images=max_images)
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB), same outputs as in PyTorch")


@with_option_groups
def bench(
    *,
    network: Annotated[NetworkOptions, Group(without=("weights", "pretrained"))],
    conversion: Annotated[ConversionOptions, Group(without=("target", "sensitivity"))],
    runtimes: Annotated[str | None, typer.Option(help="With commas between them; by default all that there are.")] = None,
    batch_sizes: Annotated[str, typer.Option(help="With commas between them.")] = "1,8",
    threads: Annotated[int | None, typer.Option(help="Of each runtime.")] = None,
    repeats: Annotated[int, typer.Option(help="Turns of each network.")] = 20,
    as_json: Json = False,
) -> None:
    """Time a network and its student side by side on the runtimes of this machine. No weights are needed.

    Examples:

        ghostify bench resnet50 --ratio 2

        ghostify bench resnet50 --runtimes openvino,onnxruntime --batch-sizes 1 --threads 4
    """
    from ..deployment.latency import latency

    original = make_network(network).eval()
    student = make_student(original, conversion)
    shape = parse_shape(conversion.input)
    latency_report = latency(
        {"original": original, "student": student},
        None if shape is None else shape[1:],
        runtimes=None if runtimes is None else [name.strip() for name in runtimes.split(",")],
        batch_sizes=parse_whole_numbers("--batch-sizes", batch_sizes),
        threads=threads,
        repeats=repeats,
        progress=sys.stderr.isatty(),
    )
    print_report(latency_report, as_json)
