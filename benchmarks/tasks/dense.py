"""Detection and segmentation on real data: teacher, converted, calibrated and recovered student, beside a pruned network.

    python -m benchmarks.tasks.dense --data DIR --bccd DIR --camvid DIR --work DIR [--task detect|segment] [--threads 2]

DIR (data) holds resnet18_imagenet.safetensors; DIR (bccd) annotations.json and images; DIR (camvid) train, val and test with
NAME.jpg and NAME.png. Detection: Faster R-CNN on a ResNet-18 pyramid, BCCD's blood cells at 256x192. Segmentation: LR-ASPP on a
ResNet-18 at stride 16, CamVid's streets at 240x180. Teachers begin at ImageNet weights and are trained here, then kept in DIR
(work), as is every student; an interrupted run goes on.

Both sides are distilled by ``ghostify.distill`` with the same recipe in a fifth of the teacher's steps, each at its best
learning rate of RATES on the validation split; all else is measured on the test split. torch-pruning can't follow a detector
from images to boxes, so its backbone and pyramid are pruned, to the FLOPs of the whole student. Writes results/dense.jsonl.
``--finish``, for a quiet machine, then writes results/dense_latency.json and draws predictions into docs/.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import torch_pruning as tp
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import tv_tensors
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.segmentation import LRASPP
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

import ghostify
from ghostify.common.costs import measure
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import in_turns, machine

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[2] / "docs"
COLORS = [tuple(round(255 * part) for part in color) for color in mpl.colormaps["Paired"].colors]
RATES = (3e-4, 1e-3)
STUDENTS = ("ghost", "pruned")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Cells(Dataset):
    """BCCD at 256x192: (image, target)."""

    size, classes = (192, 256), 4  # red and white cells, platelets, and nothing

    def __init__(self, folder: Path, split: str, training: bool):
        told = json.loads((folder / "annotations.json").read_text())
        self.training = training
        self.items = []
        for name in told["splits"][split]:
            with Image.open(folder / "images" / f"{name}.jpg") as picture:
                image = F.pil_to_tensor(picture.convert("RGB").resize(self.size[::-1], Image.Resampling.BILINEAR))
            about = torch.tensor(told["annotations"][name]["boxes"])
            boxes = about[:, :4] * torch.tensor(self.size[::-1] * 2) / torch.tensor(told["annotations"][name]["size"] * 2)
            sound = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
            self.items.append((image, boxes[sound], about[sound, 4]))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, boxes, labels = self.items[index]
        if self.training:  # cells have no up and no left
            height, width = self.size
            for axis, side in ((-1, width), (-2, height)):
                if torch.rand(()) < 0.5:
                    image, boxes = image.flip(axis), boxes.clone()
                    start = -1 - axis  # 0 for x1 and x2, 1 for y1 and y2
                    boxes[:, start::2] = side - boxes[:, start::2].flip(1)
        return image / 255, {"boxes": boxes.clone(), "labels": labels}


class Streets(Dataset):
    """CamVid at 240x180: (image, classes), 255 where there is none."""

    size, classes = (180, 240), 11
    augment = v2.Compose(
        [
            v2.ScaleJitter(size, (0.75, 2.0)),
            v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.RandomHorizontalFlip(),
        ]
    )

    def __init__(self, folder: Path, split: str, training: bool):
        self.training = training
        self.items = []
        for file in sorted((folder / split).glob("*.jpg")):
            with Image.open(file) as picture, Image.open(file.with_suffix(".png")) as classes:
                image, labels = F.pil_to_tensor(picture.convert("RGB")), F.pil_to_tensor(classes)[0].long()
            labels[labels >= self.classes] = 255
            self.items.append((image, labels))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.items[index]
        if self.training:
            image, labels = self.augment(tv_tensors.Image(image), tv_tensors.Mask(labels))
            image, labels = image.as_subclass(Tensor), labels.as_subclass(Tensor)
        return (image / 255 - MEAN) / STD, labels


def body(data: Path, frozen: bool) -> nn.Module:
    net = resnet18(norm_layer=FrozenBatchNorm2d if frozen else None)
    net.load_state_dict(load_file(data / "resnet18_imagenet.safetensors"))
    return net


class Detect:
    """Faster R-CNN; the norms of the backbone stay as they are, as torchvision trains its own."""

    name, batch_size, steps, lr, score = "detect", 4, 1000, 0.01, "map50"

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        layers = {f"layer{k}": str(k - 1) for k in (1, 2, 3, 4)}
        pyramid = BackboneWithFPN(body(self.data, frozen=True), layers, [64, 128, 256, 512], 128)
        return FasterRCNN(
            pyramid, min_size=Cells.size[0], max_size=Cells.size[1],
            rpn_anchor_generator=AnchorGenerator(tuple((s,) for s in (12, 24, 48, 96, 192)), ((0.5, 1.0, 2.0),) * 5),
            box_head=TwoMLPHead(128 * 49, 512), box_predictor=FastRCNNPredictor(512, Cells.classes),
            rpn_post_nms_top_n_test=200, rpn_post_nms_top_n_train=500, box_batch_size_per_image=128,
        )  # fmt: skip

    def loader(self, split: str, training: bool = False) -> DataLoader[Any]:
        return DataLoader(Cells(self.folder, split, training), self.batch_size, training, drop_last=training, collate_fn=apart)

    def example(self) -> Any:
        return ([torch.rand(3, *Cells.size)],)

    def loss(self, model: nn.Module, images: Any, targets: Any) -> Tensor:
        return torch.stack(list(model(images, targets).values())).sum()

    def latency(self, networks: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
        """Milliseconds of a test image, by runtime and network."""
        return {"eager": milliseconds(networks, [self.loader("test").dataset[0][0]])}

    def said(self, model: nn.Module, image: Tensor) -> Any:
        found = model([image])[0]
        return {key: value[found["scores"] > 0.5] for key, value in found.items()}

    def draw(self, image: Tensor, found: Any) -> Tensor:
        colors = [COLORS[label] for label in found["labels"].tolist()]
        return draw_bounding_boxes((255 * image).byte(), found["boxes"], colors=colors, width=2)

    def prunable(self, model: Any) -> tuple[nn.Module, list[nn.Module]]:
        """The part that torch-pruning can follow, and layers whose outputs must stay as they are."""
        return model.backbone, list(model.backbone.fpn.layer_blocks)


class Segment:
    name, batch_size, steps, lr, score = "segment", 8, 1000, 0.02, "mean_iou"

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net: Any = body(self.data, frozen=False)
        net.layer4[0].conv1.stride = net.layer4[0].downsample[0].stride = (1, 1)  # maps of stride 16 at the end
        return LRASPP(IntermediateLayerGetter(net, {"layer2": "low", "layer4": "high"}), 128, 512, Streets.classes)

    def loader(self, split: str, training: bool = False) -> DataLoader[Any]:
        return DataLoader(Streets(self.folder, split, training), self.batch_size, training, drop_last=training)

    def example(self) -> Any:
        return (torch.rand(1, 3, *Streets.size),)

    def loss(self, model: nn.Module, images: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(model(images)["out"], targets, ignore_index=255)

    def latency(self, networks: dict[str, nn.Module]) -> dict[str, dict[str, float]]:
        runtimes = ["eager", "channels_last", "onnxruntime", "openvino"]
        report = ghostify.latency(networks, (3, *Streets.size), runtimes=runtimes, batch_sizes=[1], fold=False)
        found: dict[str, dict[str, float]] = {}
        for t in report.timings:
            assert t.seconds is not None, t.problem
            found.setdefault(t.runtime, {})[t.model] = round(1e3 * t.seconds, 2)
        return found

    def said(self, model: nn.Module, image: Tensor) -> Any:
        return model(image[None])["out"][0].argmax(0)

    def draw(self, image: Tensor, found: Any) -> Tensor:
        masks = torch.stack([found == k for k in range(Streets.classes)])
        return draw_segmentation_masks((255 * (image * STD + MEAN)).byte(), masks, alpha=0.6, colors=COLORS[: Streets.classes])

    def prunable(self, model: Any) -> tuple[nn.Module, list[nn.Module]]:
        return model, [model.classifier.low_classifier, model.classifier.high_classifier]


def apart(items: list[Any]) -> tuple[list[Any], list[Any]]:
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def teacher(task: Any, work: Path) -> nn.Module:
    """Trained here, with labels alone; continues from its last checkpoint."""
    model, path = task.build(), work / f"{task.name}_teacher.pt"
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], task.lr, 0.9, weight_decay=1e-4)
    warm = task.steps // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.0, 1 - step / task.steps) ** 0.9)
    )
    done = 0
    if path.exists():
        kept = torch.load(path, weights_only=False)  # a checkpoint that this script wrote
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        schedule.load_state_dict(kept["schedule"])
        done = kept["step"]
    if done < task.steps:
        torch.manual_seed(done)
        batches, start = endless(task.loader("train", training=True)), time.perf_counter()
        model.train()
        for step in range(done + 1, task.steps + 1):
            loss = task.loss(model, *next(batches))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
            schedule.step()
            if step % 50 == 0 or step == task.steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
                torch.save({**state, "step": step}, path.with_suffix(".part"))
                path.with_suffix(".part").rename(path)
                seconds = (time.perf_counter() - start) / (step - done)
                print(f"{task.name}: step {step} of {task.steps}, loss {float(loss):.3f}, {seconds:.2f} s a step", flush=True)
    return model.eval()


def pruned(task: Any, model: nn.Module, share: float) -> nn.Module:
    """torch-pruning's, of L2 norms, each layer at the same share of channels: at most ``share`` of the FLOPs."""
    goal, low, high, best = share * measure(model, task.example()).flops, 0.0, 0.95, None
    for _ in range(12):
        middle = (low + high) / 2
        smaller = frozen(copy.deepcopy(model), False)
        part, ignored = task.prunable(smaller)
        tp.pruner.BasePruner(
            part, torch.rand(1, 3, 192, 256), importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=middle, global_pruning=False, ignored_layers=ignored,
            output_transform=lambda out: sum(o.sum() for o in out.values()),
        ).step()  # fmt: skip
        if measure(smaller, task.example()).flops <= goal:
            best, high = smaller, middle
        else:
            low = middle
    assert best is not None
    return frozen(best, True) if any(isinstance(m, FrozenBatchNorm2d) for m in model.modules()) else best.eval()


def frozen(model: nn.Module, wanted: bool) -> nn.Module:
    """With norms as torchvision freezes them, or as torch-pruning knows them."""
    kinds = (nn.BatchNorm2d, FrozenBatchNorm2d) if wanted else (FrozenBatchNorm2d, nn.BatchNorm2d)
    for name, module in list(model.named_modules()):
        if isinstance(module, kinds[0]):
            norm = kinds[1](len(module.weight), eps=module.eps)
            norm.load_state_dict(module.state_dict(), strict=False)
            model.set_submodule(name, norm)
    return model.eval()


@torch.no_grad()
def flops(model: nn.Module, example: Any) -> tuple[int, int]:
    """Of everything, and of convolutions alone."""
    with FlopCounterMode(display=False) as counter:
        model(*example)
    by_kind = counter.get_flop_counts()["Global"]
    return counter.get_total_flops(), sum(count for kind, count in by_kind.items() if "convolution" in str(kind))


class Bench:
    def __init__(self, task: Any, work: Path):
        self.task, self.work = task, work
        self.teacher = teacher(task, work)
        self.results = RESULTS / "dense.jsonl"

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.results.read_text().splitlines()] if self.results.exists() else []

    def once(self, make: Callable[[], nn.Module], split: str = "test", **about: Any) -> None:
        """Measure a network, unless its row is there."""
        about = {"task": self.task.name, "split": split, **about}
        if any(about.items() <= row.items() for row in self.rows()):
            return
        start = time.perf_counter()
        model = make()
        seconds = time.perf_counter() - start
        scores = ghostify.evaluate(model, self.task.loader(split), teacher=self.teacher).scores()
        mine, theirs = (flops(network, self.task.example()) for network in (model, self.teacher))
        row = {
            **about, "scores": {name: round(100 * value, 2) for name, value in scores.items()},
            "flops_share": round(mine[0] / theirs[0], 4), "conv_share": round(mine[1] / theirs[1], 4),
            "seconds": round(seconds, 1),
            "about": f"ghostify {ghostify.__version__}, torch {torch.__version__}, python {platform.python_version()}",
        }  # fmt: skip
        with self.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def kept(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        path = self.work / f"{self.task.name}_{name}.pt"
        if not path.exists():
            torch.save(make(), path)
        return torch.load(path, weights_only=False)

    def converted(self, **options: Any) -> nn.Module:
        return ghostify.convert(self.teacher, ratio=2, cheap="auto", **options)

    def start(self, arm: str) -> nn.Module:
        def make() -> nn.Module:
            student = self.converted(**({"skip": ("first", "pooled")} if arm == "ghost scores" else {}))
            if arm == "pruned":
                share = measure(student, self.task.example()).flops / measure(self.teacher, self.task.example()).flops
                return pruned(self.task, self.teacher, share)
            torch.manual_seed(0)
            images = self.task.loader("train", training=True)
            ghostify.calibrate(student, self.teacher, images, method="least_squares", max_images=128)
            return student.eval()

        return self.kept(f"{arm}_start", make)

    def recovered(self, arm: str, lr: float, seed: int) -> nn.Module:
        def make() -> nn.Module:
            student = self.start(arm)
            torch.manual_seed(seed)
            recipe = ghostify.Recipe(
                steps=self.task.steps // 5, lr=lr, optimizer="adamw", temperature=1, labels=1, clip=10, seed=seed,
                features=1.0 if arm == "ghost" else 0.0,
            )  # fmt: skip
            ghostify.distill(student, self.teacher, self.task.loader("train", training=True), recipe=recipe)
            return student.eval()

        return self.kept(f"{arm}_{lr:g}_{seed}", make)

    def run(self, seeds: int) -> None:
        self.once(lambda: self.teacher, arm="teacher", steps=self.task.steps)
        self.once(self.converted, arm="ghost", stage="converted", steps=0)
        self.once(lambda: self.start("ghost"), arm="ghost", stage="calibrated", steps=0)
        self.once(lambda: self.start("pruned"), arm="pruned", stage="pruned", steps=0)
        if self.task.name == "segment":  # what becomes of rare classes where the last layers are converted, too
            self.once(lambda: self.start("ghost scores"), arm="ghost scores", stage="calibrated", steps=0)
        steps = self.task.steps // 5
        for arm in STUDENTS:
            for lr in RATES:
                told = {"arm": arm, "stage": "recovered", "steps": steps, "lr": lr, "seed": 0}
                self.once(lambda a=arm, r=lr: self.recovered(a, r, 0), "val", **told)
        for seed in range(seeds):
            for arm in STUDENTS:
                lr = self.best(arm)
                told = {"arm": arm, "stage": "recovered", "steps": steps, "lr": lr, "seed": seed}
                self.once(lambda a=arm, r=lr, s=seed: self.recovered(a, r, s), **told)

    def best(self, arm: str) -> float:
        """The learning rate that did best on the validation split."""
        mine = [r for r in self.rows() if (r["task"], r["split"], r["arm"]) == (self.task.name, "val", arm)]
        return float(max(mine, key=lambda row: row["scores"][self.task.score])["lr"])

    def finish(self) -> None:
        """Latency of the networks, folded, and a picture of what they say of test images."""
        students = {arm: self.recovered(arm, self.best(arm), 0) for arm in STUDENTS}
        path = RESULTS / "dense_latency.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        told = self.task.latency({name: ghostify.fold(m) for name, m in {"teacher": self.teacher, **students}.items()})
        found[self.task.name] = {"ms": told, "machine": machine(), "threads": torch.get_num_threads()}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(found[self.task.name])
        self.picture(students["ghost"])

    @torch.no_grad()
    def picture(self, student: nn.Module, shown: int = 3) -> None:
        """Test images in rows: labels, teacher, student."""
        data = self.task.loader("test").dataset
        fig, axes = plt.subplots(shown, 3, figsize=(9.6, 2.42 * shown), layout="constrained")
        for row, index in zip(axes, range(0, len(data), len(data) // shown), strict=False):
            image, target = data[index]
            drawn = [self.task.draw(image, target)]
            drawn += [self.task.draw(image, self.task.said(model, image)) for model in (self.teacher, student)]
            for ax, one, title in zip(row, drawn, ("labels", "teacher", "student"), strict=True):
                ax.imshow(one.permute(1, 2, 0))
                ax.axis("off")
                if ax in axes[0]:
                    ax.set_title(title, fontsize=10)
        fig.savefig(DOCS / f"{self.task.name}.png", dpi=100)


def milliseconds(networks: dict[str, nn.Module], x: Any) -> dict[str, float]:
    loads = {name: RUNTIMES["eager"].prepare(network, x, torch.get_num_threads()) for name, network in networks.items()}
    return {name: round(1e3 * statistics.median(seconds), 2) for name, seconds in in_turns(loads, x, 20).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "bccd", "camvid", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--task", choices=("detect", "segment"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--finish", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    for task in (Detect(args.data, args.bccd), Segment(args.data, args.camvid)):
        if args.task in (None, task.name):
            bench = Bench(task, args.work)
            bench.run(args.seeds)
            if args.finish:
                bench.finish()


if __name__ == "__main__":
    main()
