"""The networks with trained weights, and the images to calibrate and to measure them on."""

import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from ghostify.common.costs import measure
from ghostify.students.weights import load_weights

CIFAR, IMAGENET = ("resnet56", "vgg16_bn"), ("resnet18", "mobilenet_v2")
NETWORKS = (*CIFAR, *IMAGENET)


class Split(NamedTuple):
    """Images to calibrate on with their labels, which Taylor pruning alone takes, and those to measure on."""

    few: Tensor
    few_labels: Tensor
    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Networks:
    """Networks and data, each read once.

    ``data`` holds cifar10.npz and the four networks' weights, ``models`` builds the two CIFAR-10 networks, ``imagenet`` holds
    500 pictures NNNN_*.jpg, NNNN their class.
    """

    data: Path
    models: Path
    imagenet: Path | None = None

    def teacher(self, network: str) -> nn.Module:
        return read_network(self.data, self.models, network)

    def example(self, network: str) -> Tensor:
        return torch.zeros(1, 3, 224, 224) if network in IMAGENET else torch.zeros(1, 3, 32, 32)

    def flops(self, network: str, model: nn.Module) -> int:
        return measure(model, (self.example(network),)).flops

    def flops_share(self, network: str, model: nn.Module) -> float:
        """FLOPs of a model made from the network, as a share of the network's."""
        return self.flops(network, model) / self.flops(network, self.teacher(network))

    def few(self, network: str) -> int:
        """As many images as calibration takes unless they are what is varied."""
        return 256 if network in CIFAR else 250

    def split(self, network: str, seed: int, count: int, choose: bool = False) -> Split:
        """CIFAR-10: ``count`` training images that the seed chooses, and all test images, or to ``choose`` between settings the
        held-out training images. ImageNet: the pictures, split in two by the seed."""
        if network in IMAGENET:
            images, labels = self.pictures()
            order = torch.from_numpy(np.random.RandomState(seed).permutation(len(images)))
            few, rest = order[:count], order[-250:]
            return Split(images[few], labels[few], images[rest], labels[rest])
        chosen = np.random.RandomState(seed).permutation(45000)[:count]
        measured = self.cifar("train", slice(45000, 50000)) if choose else self.cifar("test", slice(None))
        return Split(*self.cifar("train", chosen), *measured)

    def cifar(self, part: str, index: Any) -> tuple[Tensor, Tensor]:
        """Images (N, 3, 32, 32), of 0 to 1, and labels of ``"train"`` or ``"test"``."""
        pixels, labels = (read_array(self.data, f"{kind}_{part}")[index] for kind in "xy")
        return torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels)

    def pictures(self) -> tuple[Tensor, Tensor]:
        """ImageNet's, (N, 3, 224, 224), and their labels."""
        assert self.imagenet is not None
        return read_pictures(self.imagenet)

    def answers(self, network: str, seed: int, choose: bool) -> Tensor:
        """The classes that the teacher gives the images to measure on."""
        return teacher_answers(self, network, seed, choose)


@cache
def read_array(data: Path, name: str) -> np.ndarray:
    with np.load(data / "cifar10.npz") as file:
        return file[name]


@cache
def read_pictures(folder: Path) -> tuple[Tensor, Tensor]:
    steps = [v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*steps, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    files = sorted(folder.glob("*.jpg"))
    labels = torch.tensor([int(file.name[:4]) for file in files])
    return torch.stack([transform(Image.open(file).convert("RGB")) for file in files]), labels


@cache
def read_network(data: Path, models: Path, network: str) -> nn.Module:
    if network in IMAGENET:
        model = getattr(torchvision.models, network)()
        load_weights(model, data / f"{network}_imagenet.safetensors")
    else:
        model = getattr(cifar_builders(models), network)()
        load_weights(model, data / f"{network}_cifar10.safetensors")
    return model.eval()


@cache
def cifar_builders(models: Path) -> ModuleType:
    """The Python file that builds the CIFAR-10 networks, as a module."""
    spec: Any = importlib.util.spec_from_file_location("cifar_models", models)
    builders = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = builders  # where a network that was written to a file looks for its class
    spec.loader.exec_module(builders)
    return builders


@cache
def teacher_answers(networks: Networks, network: str, seed: int, choose: bool) -> Tensor:
    return predict(networks.teacher(network), networks.split(network, seed, 1, choose).images)


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 50) -> Tensor:
    """The class of the highest score, (N)."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])


def percent(hits: Tensor) -> float:
    """Of the values that are true, to two decimals."""
    return round(100 * hits.float().mean().item(), 2)
