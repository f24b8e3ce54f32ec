"""Teachers of detection and segmentation, trained with labels from ImageNet weights."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.tasks.kinds import Task


def teacher(task: Task, work: Path) -> nn.Module:
    """Trained here, with labels alone; continues from its last checkpoint."""
    training = Training(task, work / f"{task.name}_teacher.pt")
    if training.done < task.steps:
        training.run()
    return training.model.eval()


class Training:
    """The plain loop: SGD, a rate that falls, a checkpoint every 50 steps."""

    def __init__(self, task: Task, path: Path):
        self.task, self.path = task, path
        self.model = task.build()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, task.lr, 0.9, weight_decay=1e-4)
        warm = task.steps // 20
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / warm, max(0.0, 1 - step / task.steps) ** 0.9)
        )
        self.done = 0
        if path.exists():
            self.restore()

    def restore(self) -> None:
        state = torch.load(self.path, weights_only=False)  # a checkpoint that this script wrote
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.done = state["step"]

    def save(self, step: int) -> None:
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "step": step}, self.path.with_suffix(".part"))
        self.path.with_suffix(".part").rename(self.path)

    def run(self) -> None:
        task = self.task
        torch.manual_seed(self.done)
        batches, start = endless(task.loader("train", training=True)), time.perf_counter()
        self.model.train()
        for step in range(self.done + 1, task.steps + 1):
            loss = task.loss(self.model, *next(batches))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 10)
            self.optimizer.step()
            self.schedule.step()
            if step % 50 == 0 or step == task.steps:
                self.save(step)
                seconds = (time.perf_counter() - start) / (step - self.done)
                print(f"{task.name}: step {step} of {task.steps}, loss {float(loss):.3f}, {seconds:.2f} s a step", flush=True)


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader
