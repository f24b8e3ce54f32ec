"""torchvision's detectors and segmentation networks, as they are: converted, calibrated, distilled, saved and loaded.

    python -m benchmarks.tasks.dense_api [--network NAME ...] [--threads 2]

With random weights, on two small scenes with boxes, masks and key points. Writes results/dense_api.json; a network that stands
there is not run again.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.results import Row, read_json, write_json
from benchmarks.tasks.scenes import CLASSES, POINTS, scene
from ghostify.losses import main_output
from ghostify.tasks.kinds import task_for

RESULTS = "dense_api.json"
DETECTORS = (
    *("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"),
    *("keypointrcnn_resnet50_fpn", "fcos_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "ssd300_vgg16"),
)
SEGMENTERS = ("deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")
SIDE = 192
STEPS = 12
RATES = {"ssd300_vgg16": 1e-5, "keypointrcnn_resnet50_fpn": 1e-4}  # no norms; eight convolutions for the key points; else 3e-4


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
    if "rcnn" in name or name.startswith(("retinanet", "fcos")):
        options |= {"min_size": SIDE, "max_size": SIDE}
    if name.startswith("keypointrcnn"):
        options["num_keypoints"] = POINTS
    if name in ("deeplabv3_resnet50", "fcn_resnet50"):
        options["aux_loss"] = True
    return torchvision.models.get_model(name, **options).eval()


def scenes(name: str) -> tuple[Any, Any]:
    """Images and targets as the network takes them."""
    images, targets = zip(*(scene(seed, SIDE) for seed in range(2)), strict=True)
    if name in DETECTORS:
        return list(images), list(targets)
    classes = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    for row, target in zip(classes, targets, strict=True):
        for mask, label in zip(target["masks"], target["labels"], strict=True):
            row[mask.bool()] = label
    return torch.stack(images), classes


def kinds(output: Any) -> Any:
    """What a network returns, without the values."""
    if isinstance(output, dict):
        return {key: kinds(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return [kinds(value) for value in output]
    return output.dim() if isinstance(output, Tensor) else type(output).__name__


def examine(name: str) -> Row:
    start = time.perf_counter()
    teacher, (images, targets) = build(name), scenes(name)
    ghostify.reestimate_norms(teacher, [images])
    student = ghostify.convert(teacher, 2)
    same = interfaces_equal(name, student, teacher, images, targets)
    errors = ghostify.calibrate(student, teacher, [images], method="least_squares").to_frame()
    report = ghostify.report(student, (images,))
    assert report.after.flops
    assert report.before.flops
    before, after = distilled(name, student, teacher, images, targets)
    return {
        "interfaces_equal": same,
        "sites": sum(row.reason is None for row in report.rows),
        "flops_share": round(report.after.flops / report.before.flops, 4),
        "site_error": [round(float(errors[column].mean()), 4) for column in ("before", "after")],
        "loss": [round(before, 3), round(after, 3)],
        "loaded_equal": loads_equal(name, student, images),
        "seconds": round(time.perf_counter() - start, 1),
    }


@torch.no_grad()
def interfaces_equal(name: str, student: nn.Module, teacher: nn.Module, images: Any, targets: Any) -> bool:
    """Whether the student takes and returns what the teacher does; of detectors in training mode, too."""
    same = kinds(student.eval()(images)) == kinds(teacher(images))
    if name in DETECTORS:
        losses = build(name).train()(images, targets)
        same &= kinds(ghostify.convert(teacher, 2).train()(images, targets)) == kinds(losses)
    return same


def distilled(name: str, student: nn.Module, teacher: nn.Module, images: Any, targets: Any) -> tuple[float, float]:
    """The loss before and after some steps on the two scenes."""
    task = task_for(student, main_output, None)
    recipe = ghostify.Recipe(
        steps=STEPS,
        lr=RATES.get(name, 3e-4),
        optimizer="adamw",
        temperature=1,
        labels=1,
        clip=10,
        schedule="constant",
        warmup=0,
    )

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            losses = task.losses(student.train(), teacher, images, targets, recipe)
        student.eval()
        return sum(float(value) for value in losses.values())

    before = loss()
    ghostify.distill(student, teacher, [(images, targets)], recipe=recipe)
    return before, loss()


@torch.no_grad()
def loads_equal(name: str, student: nn.Module, images: Any) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        ghostify.save(student, path)
        loaded = ghostify.load(path, lambda: build(name)).eval()
    outputs = zip(tree_leaves(loaded(images)), tree_leaves(student(images)), strict=True)
    return all(torch.equal(one, other) for one, other in outputs)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--network", nargs="*", choices=DETECTORS + SEGMENTERS, default=DETECTORS + SEGMENTERS)
    add_threads(parser)
    args = parse(parser)
    results = read_json(RESULTS)
    for name in args.network:
        if name not in results:
            results[name] = examine(name)
            print(name, results[name], flush=True)
            write_json(RESULTS, results)


if __name__ == "__main__":
    main()
