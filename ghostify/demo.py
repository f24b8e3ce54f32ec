"""The demo: train a small CNN on scikit-learn's digits, convert it, calibrate it without labels, and compare. No network."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .calibration.calibrate import calibrate
from .conversion.convert import convert
from .conversion.make_report import report
from .conversion.report import Report
from .distillation.distill import distill
from .distillation.training_recipe import Recipe


@dataclass(frozen=True)
class NetworkFigures:
    """The original or the student as one line of the demo's table.

    Attributes:
        name: of the line.
        accuracy: from 0 to 1 on held-out digits; of the student as converted.
        calibrated, recovered: the student's accuracy after calibration, and after distillation; None for the original.
        seconds: that calibration and distillation took together; None for the original.
        params: parameters.
        flops: multiply-adds for one image.
        latency: seconds for 256 images.
    """

    name: str
    accuracy: float
    calibrated: float | None
    recovered: float | None
    seconds: float | None
    params: int
    flops: int
    latency: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        original, student: their figures.
        report: of the conversion.
    """

    original: NetworkFigures
    student: NetworkFigures
    report: Report

    @property
    def lines(self) -> tuple[NetworkFigures, NetworkFigures]:
        """The lines of the table, the original first."""
        return self.original, self.student

    @property
    def works(self) -> bool:
        """Whether the student is smaller, and in the end within five points of the original."""
        original, student = self.original, self.student
        smaller = student.params < original.params and student.flops < original.flops
        return smaller and (student.recovered or 0) > original.accuracy - 0.05


EPOCHS = 12  # of training the original
IMAGES = 256  # for calibration
STEPS = 150  # of distillation


def run_demo(ratio: float = 2, progress: Callable[[], None] = lambda: None) -> DemoResult:
    """Train, convert, calibrate, distil, measure.

    Args:
        ratio: of the conversion.
        progress: called after each of the EPOCHS epochs of the original, on 1,297 digits of 8x8 pixels; 500 others are held
            out. The student is calibrated on IMAGES of them and distilled for STEPS steps on all, without their labels.
    """
    (train, _), (images, labels) = digits()
    teacher = trained_cnn(progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = convert(teacher, ratio, cheap="auto")
        converted = _accuracy(student, images, labels)
        start = time.perf_counter()
        calibrate(student, teacher, train, max_images=IMAGES)
        calibrated = _accuracy(student, images, labels)
        distill(student, teacher, train, recipe=Recipe(steps=STEPS, batch_size=64, augment="none"))
        seconds = time.perf_counter() - start
    conversion = report(student, (1, 1, 8, 8))
    teacher_latency, student_latency = _latency([teacher, student], images[:256])
    before, after = conversion.before, conversion.after
    accuracy = _accuracy(teacher, images, labels)
    original = NetworkFigures("original", accuracy, None, None, None, before.params, before.flops or 0, teacher_latency)
    recovered = _accuracy(student, images, labels)
    name = f"student, ratio {ratio:g}"
    figures = NetworkFigures(name, converted, calibrated, recovered, seconds, after.params, after.flops or 0, student_latency)
    return DemoResult(original, figures, conversion)


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """scikit-learn's handwritten digits as (images, labels): 1,297 to train on and 500 others; images (N, 1, 8, 8), 0 to 1."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:-500], order[-500:]
    return (images[train], labels[train]), (images[test], labels[test])


def trained_cnn(progress: Callable[[], None] = lambda: None) -> nn.Module:
    """A small CNN, trained on the digits in some ten seconds; the same at every call.

    ``progress`` is called after each epoch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _train(_small_cnn(), digits()[0], EPOCHS, 2e-3, progress)


def _small_cnn() -> nn.Sequential:
    def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    features = [*block(1, 32), *block(32, 64), *block(64, 64), *block(64, 128, 2), *block(128, 128)]
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def _train(model: nn.Module, data: tuple[Tensor, Tensor], epochs: int, lr: float, progress: Callable[[], None]) -> nn.Module:
    images, labels = data
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=lr)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        progress()
    return model.eval()


@torch.no_grad()
def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model(images).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def _latency(models: list[nn.Module], images: Tensor, rounds: int = 15) -> list[float]:
    """Median seconds of a forward pass of each model, taken in turn so that a noisy machine is equally unfair to all."""
    times: list[list[float]] = [[] for _ in models]
    for turn in range(rounds + 2):
        for model, seconds in zip(models, times, strict=True):
            start = time.perf_counter()
            model(images)
            if turn >= 2:  # the first two warm up
                seconds.append(time.perf_counter() - start)
    return [sorted(seconds)[rounds // 2] for seconds in times]
