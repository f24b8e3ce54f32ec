"""Accuracy straight after calibration, beside torch-pruning at equal FLOPs.

    python -m benchmarks.calibration.accuracy --data DIR --models FILE --imagenet DIR          # 56 minutes on two cores
    python -m benchmarks.calibration.accuracy --data DIR --models FILE --imagenet DIR --full   # more seeds, ablations, curves

DIR (data) holds cifar10.npz and the four networks' weights, FILE builds the two CIFAR-10 networks, DIR (imagenet) holds 500
pictures NNNN_*.jpg, NNNN their class. Each trial is one line of results/calibration.jsonl; a trial that stands there is not
run again, so an interrupted run goes on where it stopped. ``--section`` runs one part, ``--threads`` sets torch's threads.

CIFAR-10: calibration images from the training set, seeds choose them; top-1 on all 10,000 test images. Ablations, which choose
between settings, are measured on training images 45,000 to 49,999, which neither networks nor calibration have seen. ImageNet:
250 pictures for calibration, the other 250 for the measurement, seeds split them.
"""

import argparse
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ghostify
from benchmarks.harness.pruning import SETTINGS, Setting, prune
from ghostify.calibration.calibrate import calibrate_with
from ghostify.calibration.settings import BlockSettings, ImageSettings, Settings
from ghostify.common.costs import measure
from ghostify.students.weights import load_weights

RESULTS = Path(__file__).parents[1] / "results" / "calibration.jsonl"
CIFAR, IMAGENET = ("resnet56", "vgg16_bn"), ("resnet18", "mobilenet_v2")


@dataclass(frozen=True)
class Trial:
    """One student, or one pruned network. ``arm``: depthwise, pointwise, auto; or taylor, l2, random (pruning)."""

    section: str
    network: str
    arm: str
    method: str = "least_squares"  # or block, or pruning
    seed: int = 0
    images: int = 256
    ratio: float = 2
    variant: str = ""  # what an ablation changes
    options: dict[str, Any] = field(default_factory=dict)  # of Settings, BlockSettings and convert

    @property
    def key(self) -> str:
        return json.dumps([self.network, self.arm, self.method, self.seed, self.images, self.ratio, self.variant])


def main_trials() -> Iterator[Trial]:
    """One seed of each network, without the blocks of ImageNet's, which take half an hour each."""
    for network in (*CIFAR, *IMAGENET):
        yield from (t for t in network_trials(network, 0) if network in CIFAR or t.method != "block")


def seed_trials() -> Iterator[Trial]:
    """What the main section leaves out: ImageNet's blocks, then two more seeds."""
    yield from (Trial("main", network, "auto", "block", 0, 250) for network in IMAGENET)
    for seed in (1, 2):
        for network in (*CIFAR, *IMAGENET):
            yield from network_trials(network, seed)


def network_trials(network: str, seed: int) -> Iterator[Trial]:
    images = 256 if network in CIFAR else 250
    for arm in ("depthwise", "auto"):
        yield Trial("main", network, arm, seed=seed, images=images)
    yield Trial("main", network, "auto", "block", seed, images)
    for arm in ("taylor", "l2", "random"):
        yield Trial("main", network, arm, "pruning", seed, images)


def ablation_trials() -> Iterator[Trial]:
    changes: dict[str, dict[str, Any]] = {
        "as it is": {},
        "input from the teacher (symmetric)": {"asymmetric": False},
        "target without the shortcut's loss": {"residual": False},
        "channels as in the warm start": {"choose": False},
        "channels by position": {"choose": False, "init": "random"},
        "filters kept, norms and cheap kernels fitted": {"refit": False},
        "linear ghosts from channels, not of the best rank": {"rank": False},
        "layers that were not converted left as they are": {"dense": False},
        "activation not accounted for": {"rounds": 0},
        "activation: 6 rounds": {"rounds": 6},
        "ridge 1e-5": {"ridge": 1e-5},
        "ridge 1e-4": {"ridge": 1e-4},
        "ridge 1e-2": {"ridge": 1e-2},
        "ridge 1e-1": {"ridge": 1e-1},
        "two passes over the sites": {"passes": 2},
        "the same channels intrinsic in all layers of a sum (align)": {"align": True},
        "and mirrored images": {"copies": 1},
        "and three copies, mirrored and shifted": {"copies": 3},
        "norms re-estimated alone at the end": {"plain_norms": True},
    }
    for arm in ("depthwise", "pointwise", "auto"):
        for variant, options in changes.items():
            if arm != "auto" or not options or "align" in options:
                yield Trial("ablation", "resnet56", arm, variant=variant, options=options)
    blocks: dict[str, dict[str, Any]] = {
        "block": {},
        "block, no copies of the images": {"copies": 0},
        "block, 100 steps": {"steps": 100},
        "block, 800 steps": {"steps": 800},
        "block, lr 0.005": {"lr": 0.005},
        "block, lr 0.05": {"lr": 0.05},
        "block, plain Adam": {"rotate": False},
        "block, norms re-estimated alone at the end": {"plain_norms": True},
        "block, the same channels intrinsic in all layers of a sum (align)": {"align": True},
        "block, from the warm start": {"refit": False, "choose": False},
    }
    for variant, options in blocks.items():
        yield Trial("ablation", "resnet56", "pointwise", "block", variant=variant, options=options)


def curve_trials() -> Iterator[Trial]:
    for network in CIFAR:
        for images in (50, 250, 1000):
            for arm, method in (("depthwise", "least_squares"), ("auto", "least_squares"), ("auto", "block")):
                yield Trial("images", network, arm, method, images=images)
            yield Trial("images", network, "taylor", "pruning", images=images)
        for ratio in (1.5, 2, 3, 4):
            for arm, method in (("depthwise", "least_squares"), ("auto", "least_squares"), ("auto", "block")):
                yield Trial("ratios", network, arm, method, ratio=ratio)
            for arm in ("taylor", "l2"):
                yield Trial("ratios", network, arm, "pruning", ratio=ratio)


SECTIONS = {"main": main_trials, "seeds": seed_trials, "ablation": ablation_trials, "curves": curve_trials}


class Bench:
    """Networks and data, each read once: there is one bench, and it lives as long as the process."""

    def __init__(self, data: Path, models: Path, imagenet: Path):
        self.data, self.models, self.imagenet = data, models, imagenet

    @cache  # noqa: B019
    def cifar(self) -> Any:
        return np.load(self.data / "cifar10.npz")

    @cache  # noqa: B019
    def arrays(self, name: str) -> np.ndarray:
        return self.cifar()[name]

    @cache  # noqa: B019
    def pictures(self) -> tuple[Tensor, Tensor]:
        from PIL import Image
        from torchvision.transforms import v2

        steps = [v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        transform = v2.Compose([*steps, v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
        files = sorted(self.imagenet.glob("*.jpg"))
        labels = torch.tensor([int(file.name[:4]) for file in files])
        return torch.stack([transform(Image.open(file).convert("RGB")) for file in files]), labels

    @cache  # noqa: B019
    def teacher(self, network: str) -> nn.Module:
        if network in IMAGENET:
            import torchvision

            model = getattr(torchvision.models, network)()
            load_weights(model, self.data / f"{network}_imagenet.safetensors")
        else:
            spec: Any = importlib.util.spec_from_file_location("cifar_models", self.models)
            builders = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = builders  # where a network that was written to a file looks for its class
            spec.loader.exec_module(builders)
            model = getattr(builders, network)()
            load_weights(model, self.data / f"{network}_cifar10.safetensors")
        return model.eval()

    def split(self, network: str, seed: int, count: int, choose: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Calibration images and their labels (for Taylor pruning alone), images and labels to measure on: the test images,
        or to ``choose`` between settings the held-out training images."""
        if network in IMAGENET:
            images, labels = self.pictures()
            order = torch.from_numpy(np.random.RandomState(seed).permutation(len(images)))
            few, rest = order[:count], order[-250:]
            return images[few], labels[few], images[rest], labels[rest]
        chosen = np.random.RandomState(seed).permutation(45000)[:count]
        rest = ("x_train", "y_train", slice(45000, 50000)) if choose else ("x_test", "y_test", slice(None))
        pixels = (self.arrays("x_train")[chosen], self.arrays(rest[0])[rest[2]])
        few, many = (torch.tensor(p).permute(0, 3, 1, 2).float() / 255 for p in pixels)
        return few, torch.tensor(self.arrays("y_train")[chosen]), many, torch.tensor(self.arrays(rest[1])[rest[2]])

    @cache  # noqa: B019
    def answers(self, network: str, seed: int, choose: bool) -> Tensor:
        """The teacher's, on the images to measure on."""
        return predict(self.teacher(network), self.split(network, seed, 1, choose)[2])

    @cache  # noqa: B019
    def best_setting(self, network: str, importance: str, share: float) -> Setting:
        """The rival's best on images and labels that nobody is measured on: for CIFAR-10 1,000 of the held-out training images,
        for ImageNet, where there are no more, the very images that it is pruned with."""
        few, labels, _, _ = self.split(network, 0, 256 if network in CIFAR else 250)
        images, wanted = few, labels
        if network in CIFAR:
            images = torch.tensor(self.arrays("x_train")[45000:46000]).permute(0, 3, 1, 2).float() / 255
            wanted = torch.tensor(self.arrays("y_train")[45000:46000])
        scores = {}
        for setting in SETTINGS:
            pruned = prune(self.teacher(network), self.example(network), share, importance, setting, few, labels)
            if pruned is not None:
                ghostify.reestimate_norms(pruned, few)
                scores[setting] = percent(predict(pruned, images) == wanted)
        best = max(scores, key=lambda setting: scores[setting])
        print(f"{network} {importance}: {best}, {scores[best]} on images to choose by", flush=True)
        return best

    def example(self, network: str) -> Tensor:
        return torch.zeros(1, 3, 224, 224) if network in IMAGENET else torch.zeros(1, 3, 32, 32)

    def student(self, trial: Trial) -> tuple[nn.Module, float, Setting | None]:
        """The calibrated student, or the pruned network; the seconds that it took; how it was pruned."""
        teacher, example = self.teacher(trial.network), self.example(trial.network)
        few, labels, _, _ = self.split(trial.network, trial.seed, trial.images)
        options = dict(trial.options)
        cheap = "auto" if trial.method == "pruning" else trial.arm
        student = ghostify.convert(teacher, trial.ratio, cheap=cheap, init=options.pop("init", "warm"))
        if trial.method == "pruning":
            share = measure(student, (example,)).flops / measure(teacher, (example,)).flops
            setting = self.best_setting(trial.network, trial.arm, share)
            start = time.perf_counter()
            pruned = prune(teacher, example, share, trial.arm, setting, few, labels, trial.seed)
            assert pruned is not None
            ghostify.reestimate_norms(pruned, few)
            return pruned, time.perf_counter() - start, setting
        start = time.perf_counter()
        plain, passes = options.pop("plain_norms", False), options.pop("passes", 1)
        copies = options.pop("copies", None)
        chosen = {name: options.pop(name) for name in ("steps", "lr", "rotate") if name in options}
        blocks = BlockSettings(**chosen, seed=trial.seed) if trial.method == "block" else None
        settings = Settings(seed=trial.seed, **options)
        for _ in range(passes):
            calibrate_with(student, teacher, few, settings, blocks, ImageSettings(copies=copies))
        if plain:
            ghostify.reestimate_norms(student, few)
        return student, time.perf_counter() - start, None

    def run(self, trial: Trial) -> dict[str, Any]:
        student, seconds, setting = self.student(trial)
        return self.judged(trial, student, seconds, setting)

    def judged(self, trial: Trial, student: nn.Module, seconds: float, setting: Setting | None) -> dict[str, Any]:
        choose = trial.section == "ablation"
        _, _, images, labels = self.split(trial.network, trial.seed, trial.images, choose)
        given, wanted = predict(student, images), self.answers(trial.network, trial.seed, choose)
        example = self.example(trial.network)
        return {
            **{k: getattr(trial, k) for k in ("network", "arm", "method", "seed", "images", "ratio", "variant")},
            "base": percent(wanted == labels),
            "top1": percent(given == labels),
            "agreement": percent(given == wanted),
            "flops_share": round(
                measure(student, (example,)).flops / measure(self.teacher(trial.network), (example,)).flops, 4
            ),
            "seconds": round(seconds, 1),
            "setting": str(setting or ""),
            "measured_on": "training images 45,000 to 49,999" if choose else "test",
            "about": f"ghostify {ghostify.__version__}, torch {torch.__version__}, python {platform.python_version()}",
        }


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 50) -> Tensor:
    return torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])


def percent(hits: Tensor) -> float:
    return round(100 * hits.float().mean().item(), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "imagenet"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--section", choices=SECTIONS)
    parser.add_argument("--network", choices=(*CIFAR, *IMAGENET))
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Bench(args.data, args.models, args.imagenet)
    wanted = [args.section] if args.section else list(SECTIONS) if args.full else ["main"]
    trials = {trial.key: trial for section in wanted for trial in SECTIONS[section]()}
    trials = {key: trial for key, trial in trials.items() if args.network in (None, trial.network)}
    done = {row["key"] for row in map(json.loads, RESULTS.read_text().splitlines())} if RESULTS.exists() else set()
    for number, (key, trial) in enumerate(trials.items(), start=1):
        if key in done:
            continue
        row = bench.run(trial)
        with RESULTS.open("a") as file:
            file.write(json.dumps({"key": key, **row}) + "\n")
        named = " ".join(map(str, (trial.network, trial.arm, trial.method, trial.variant, f"seed {trial.seed}")))
        print(f"{number}/{len(trials)} {named}: {row['top1']} (base {row['base']}), {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
