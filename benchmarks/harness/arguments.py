"""Arguments of the command line that several benchmarks have in common."""

import argparse
from pathlib import Path

import torch

PATHS = {
    "data": "folder with cifar10.npz and the networks' weights",
    "models": "Python file that builds the CIFAR-10 networks, resnet56() and vgg16_bn()",
    "imagenet": "folder of pictures NNNN_*.jpg, NNNN their class",
    "bccd": "folder with annotations.json and images",
    "camvid": "folder with train, val and test, each of NAME.jpg and NAME.png",
    "work": "folder where networks are kept that took long to make",
}


def argument_parser(text: str | None, *paths: str) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a benchmark, and that requires those of PATHS which the benchmark names."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True, help=PATHS[name])
    return parser


def add_threads(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    parser.add_argument("--threads", type=int, default=default, help="of torch" + (f"; default {default}" if default else ""))


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; torch's threads are set, and the folder for work exists."""
    arguments = parser.parse_args()
    if getattr(arguments, "threads", None):
        torch.set_num_threads(arguments.threads)
    if hasattr(arguments, "work"):
        arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments
