"""The demo: train a small CNN on scikit-learn's digits, compress it, and compare both. No network is needed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .compression.compress import compress
from .compression.report import CompressionReport
from .deployment.timing import thread_count

EPOCHS = 12  # of training the original

MAX_DROP = 0.02  # that the student is allowed

BATCH = 64  # images at a time, where both are timed


def run_demo(model: nn.Module, progress: bool = False) -> CompressionReport:
    """Compress a network of digits, as fast as it gets in PyTorch itself on one thread, and say what came of it.

    Args:
        model: of :func:`trained_cnn`. It is calibrated on digits that it was trained on, without labels; 500 others judge.
        progress: show a progress bar.
    """
    (images, _), val = digits()
    with thread_count(1):  # pictures are so small that more threads wait for each other, for long where others work, too
        result = compress(model, images, max_drop=MAX_DROP, val=val, runtime="eager", batch_size=BATCH, progress=progress)
    return result.report


def promise_not_kept(report: CompressionReport) -> str | None:
    """In what the student falls short of what the demo promises, as a sentence; None where it keeps all of it."""
    original, student = report.original, report.student
    if not (student.params < original.params and student.flops < original.flops):
        return "the student is not smaller than the original"
    if not (student.score or 0) >= (original.score or 0) - MAX_DROP:
        return f"the student is more than {MAX_DROP:.0%} behind the original"
    if not (student.latency or 0) < (original.latency or 0):
        return "the student is not faster than the original: is the machine busy?"
    return None


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
    with torch.random.fork_rng(devices=[]), thread_count(1):
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
