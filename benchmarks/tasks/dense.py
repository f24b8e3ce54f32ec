"""Detection and segmentation on real data: teacher, converted, calibrated and recovered students, beside a pruned network.

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

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.drawing import plt, save
from benchmarks.harness.machine import seconds_of, versions_line
from benchmarks.harness.markdown import mean_and_range, percent, table
from benchmarks.harness.results import Row, append_line, read_json, read_lines, write_json
from benchmarks.tasks.kinds import Detect, Segment, Task
from benchmarks.tasks.pruning import pruned
from benchmarks.tasks.teachers import teacher
from ghostify.common.costs import measure
from ghostify.deployment.timing import machine

RESULTS, LATENCY = "dense.jsonl", "dense_latency.json"
RATES = (3e-4, 1e-3)
STUDENTS = ("absorbed", "ghost", "pruned")


@torch.no_grad()
def flops(model: nn.Module, example: Any) -> tuple[int, int]:
    """Of everything, and of convolutions alone."""
    with FlopCounterMode(display=False) as counter:
        model(*example)
    by_kind = counter.get_flop_counts()["Global"]
    return counter.get_total_flops(), sum(count for kind, count in by_kind.items() if "convolution" in str(kind))


class Bench:
    """The networks of one task, each made once, and their rows."""

    def __init__(self, task: Task, work: Path):
        self.task, self.work = task, work
        measured = any(row["task"] == task.name for row in read_lines(RESULTS))
        if measured and not (work / f"{task.name}_teacher.pt").exists():
            raise SystemExit(
                f"results/{RESULTS} has rows of {task.name} of a teacher that is not in {work}: remove these rows, "
                "or give the folder that it is kept in"
            )
        self.teacher = teacher(task, work)

    def once(self, make: Callable[[], nn.Module], split: str = "test", **about: Any) -> None:
        """Measure a network, unless its row is there."""
        about = {"task": self.task.name, "split": split, **about}
        if any(about.items() <= row.items() for row in read_lines(RESULTS)):
            return
        model, seconds = seconds_of(make)
        scores = ghostify.evaluate(model, self.task.loader(split), teacher=self.teacher).scores()
        counts, of_teacher = (flops(network, self.task.example()) for network in (model, self.teacher))
        row = {
            **about,
            "scores": {name: round(100 * value, 2) for name, value in scores.items()},
            "flops_share": round(counts[0] / of_teacher[0], 4),
            "conv_share": round(counts[1] / of_teacher[1], 4),
            "seconds": round(seconds, 1),
            "about": versions_line(),
        }
        append_line(RESULTS, row)
        print(json.dumps(row), flush=True)

    def kept(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        path = self.work / f"{self.task.name}_{name}.pt"
        if not path.exists():
            torch.save(make(), path)
        return torch.load(path, weights_only=False)

    def converted(self, **options: Any) -> nn.Module:
        return ghostify.convert(self.teacher, ratio=2, cheap="auto", **options)

    def absorbed(self) -> nn.Module:
        """Absorbed ghosts at the FLOPs of the Ghost modules, shared out from one pass of the training images."""
        return ghostify.convert(
            self.teacher,
            target={"flops": self.ghost_share()},
            cheap="absorbed",
            images=self.images(),
            max_images=128,
            example_input=self.task.example(),
        )

    def ghost_share(self) -> float:
        example = self.task.example()
        return measure(self.converted(), example).flops / measure(self.teacher, example).flops

    def images(self) -> Any:
        """Training images, in the same random order each time."""
        torch.manual_seed(0)
        return self.task.loader("train", training=True)

    def start(self, arm: str) -> nn.Module:
        """The student or the pruned network before any distillation."""

        def make() -> nn.Module:
            if arm == "pruned":
                return pruned(self.task, self.teacher, self.ghost_share())
            if arm == "absorbed":
                student = self.absorbed()
            else:
                student = self.converted(**({"skip": ("first", "pooled")} if arm == "ghost scores" else {}))
            ghostify.calibrate(student, self.teacher, self.images(), method="least_squares", max_images=128)
            return student.eval()

        return self.kept(f"{arm}_start", make)

    def recovered(self, arm: str, lr: float, seed: int) -> nn.Module:
        def make() -> nn.Module:
            student = self.start(arm)
            torch.manual_seed(seed)
            recipe = ghostify.Recipe(
                steps=self.task.steps // 5,
                lr=lr,
                optimizer="adamw",
                temperature=1,
                labels=1,
                clip=10,
                seed=seed,
                features=0.0 if arm == "pruned" else 1.0,
            )
            ghostify.distill(student, self.teacher, self.task.loader("train", training=True), recipe=recipe)
            return student.eval()

        return self.kept(f"{arm}_{lr:g}_{seed}", make)

    def run(self, seeds: int) -> None:
        self.once(lambda: self.teacher, arm="teacher", steps=self.task.steps)
        self.once(self.converted, arm="ghost", stage="converted", steps=0)
        self.once(lambda: self.start("ghost"), arm="ghost", stage="calibrated", steps=0)
        self.once(lambda: self.start("absorbed"), arm="absorbed", stage="calibrated", steps=0)
        self.once(lambda: self.start("pruned"), arm="pruned", stage="pruned", steps=0)
        if self.task.name == "segment":  # what becomes of rare classes where the last layers are converted, too
            self.once(lambda: self.start("ghost scores"), arm="ghost scores", stage="calibrated", steps=0)
        for arm in STUDENTS:
            for lr in RATES:
                self.once_recovered(arm, lr, 0, "val")
        for seed in range(seeds):
            for arm in STUDENTS:
                self.once_recovered(arm, self.best_rate(arm), seed, "test")

    def once_recovered(self, arm: str, lr: float, seed: int, split: str) -> None:
        about = {"arm": arm, "stage": "recovered", "steps": self.task.steps // 5, "lr": lr, "seed": seed}
        self.once(lambda: self.recovered(arm, lr, seed), split, **about)

    def best_rate(self, arm: str) -> float:
        """The learning rate that did best on the validation split."""
        rows = [r for r in read_lines(RESULTS) if (r["task"], r["split"], r["arm"]) == (self.task.name, "val", arm)]
        return float(max(rows, key=lambda row: row["scores"][self.task.score])["lr"])

    def finish(self) -> None:
        """Latency of the networks, folded, and a picture of what they say of test images."""
        students = {arm: self.recovered(arm, self.best_rate(arm), 0) for arm in STUDENTS}
        folded = {name: ghostify.fold(model) for name, model in {"teacher": self.teacher, **students}.items()}
        facts = {"ms": self.task.latency(folded), "machine": machine(), "threads": torch.get_num_threads()}
        write_json(LATENCY, {**read_json(LATENCY), self.task.name: facts})
        print(facts)
        self.picture(students["absorbed"])

    @torch.no_grad()
    def picture(self, student: nn.Module, count: int = 3) -> None:
        """Test images in rows: labels, teacher, student."""
        data = self.task.loader("test").dataset
        fig, axes = plt.subplots(count, 3, figsize=(9.6, 2.42 * count), layout="constrained")
        for row, index in zip(axes, range(0, len(data), len(data) // count), strict=False):
            image, target = data[index]
            answers = [target, *(self.task.answer(model, image) for model in (self.teacher, student))]
            for ax, answer, title in zip(row, answers, ("labels", "teacher", "student"), strict=True):
                ax.imshow(self.task.draw(image, answer).permute(1, 2, 0))
                ax.axis("off")
                if ax in axes[0]:
                    ax.set_title(title, fontsize=10)
        save(fig, self.task.name, dpi=100)


def main() -> None:
    parser = argument_parser(__doc__, "data", "bccd", "camvid", "work")
    parser.add_argument("--task", choices=("detect", "segment"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--finish", action="store_true")
    add_threads(parser)
    args = parse(parser)
    for task in (Detect(args.data, args.bccd), Segment(args.data, args.camvid)):
        if args.task in (None, task.name):
            bench = Bench(task, args.work)
            bench.run(args.seeds)
            if args.finish:
                bench.finish()


ARMS = {
    "teacher": "original",
    "absorbed": "absorbed ghosts",
    "ghost": "Ghost modules",
    "pruned": "torch-pruning",
    "ghost scores": "Ghost modules, layers of the scores converted, too",
}
SCORES = {"map50": "mAP@0.5", "map": "mAP", "mean_iou": "mean IoU"}


def tables() -> dict[str, str]:
    """Detection and segmentation on the test splits: mean over seeds of the recovery, and range."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in read_lines(RESULTS):
        if row["split"] == "test":
            stage = f", {row['stage']}" if row.get("stage", "pruned") != "pruned" else ""
            groups.setdefault((row["task"], ARMS[row["arm"]] + stage), []).append(row)
    latency = read_json(LATENCY)
    lines = []
    for (task, name), rows in sorted(groups.items(), key=lambda group: group[0][0]):  # by task
        row = rows[0]
        scores = [
            f"{title} {mean_and_range([row['scores'][key] for row in rows])}"
            for key, title in SCORES.items()
            if key in row["scores"]
        ]
        final = row["arm"] == "teacher" or row["stage"] == "recovered"
        ms = (
            [f"{runtime} {of[row['arm']]:.0f}" for runtime, of in latency[task]["ms"].items() if row["arm"] in of]
            if final
            else []
        )
        shares = [percent(row[key]) for key in ("flops_share", "conv_share")]
        lines.append([task, name, *shares, f"{row['steps']:,}", "; ".join(scores), ", ".join(ms)])
    header = ["task", "network", "FLOPs", "of convolutions", "training steps", "test images, %", "latency, ms"]
    machines = ", ".join(dict.fromkeys(f"{of['threads']} threads, {of['machine']}" for of in latency.values()))
    return {"dense": f"{table(header, lines)}\n\nLatency of one test image, folded: {machines}."}


if __name__ == "__main__":
    main()
