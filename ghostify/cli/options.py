"""The options that commands have in common, as annotated types, with their help texts."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Argument(help="A name: resnet50, timm/..., torchvision/... (ghostify zoo lists them).")]

Factory = Annotated[str | None, typer.Option(help="Your own model: package.module:function, called without arguments.")]

Weights = Annotated[Path | None, typer.Option(help="Weights: safetensors, or a state dict saved by torch.")]

Pretrained = Annotated[bool, typer.Option(help="Fetch the pretrained weights of timm or torchvision.")]

Ratio = Annotated[
    float | None,
    typer.Option(help="s, by default 2: a layer of n channels computes ceil(n / s) and makes, or drops, the others."),
]

Target = Annotated[
    str | None,
    typer.Option(help="In place of --ratio: flops=0.5, params=5M or latency=0.6; each site or span then gets its own ratio."),
]

SensitivityFile = Annotated[Path | None, typer.Option("--sensitivity", help="What ghostify sensitivity wrote, for --target.")]

DwSize = Annotated[int, typer.Option(help="Kernel size of the depthwise cheap operation: 1, 3, 5 or 7.")]

Cheap = Annotated[
    str, typer.Option(help="depthwise, pointwise, auto; or absorbed: no ghosts to compute, plain narrower layers.")
]

Ratios = Annotated[
    list[str] | None,
    typer.Option("--set", help="GLOB=RATIO for some layers, GLOB=dense to keep them; the last match wins."),
]

LinearRatio = Annotated[float | None, typer.Option(help="Shrink fully connected layers this many times.")]

OnlyIfFaster = Annotated[
    str | None,
    typer.Option(help="A runtime, such as openvino: sites that are not faster there as Ghost modules stay dense."),
]

Input = Annotated[str | None, typer.Option("--input", help="Shape of the input, such as 1x3x224x224; for your own models.")]

Images = Annotated[Path, typer.Option(help="Folder of pictures, or a .npy file of preprocessed ones (N, C, H, W).")]

StudentFile = Annotated[Path, typer.Option(help="File to write: safetensors, the recipe in its header.")]

MostImages = Annotated[int, typer.Option(help="Read so many images at most.")]

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
