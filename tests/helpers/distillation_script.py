"""Run by test_distill in processes of their own: ``recover`` ends itself at some image, the script trains on several."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parents[1]))  # torchrun starts it as a script

import ghostify
from ghostify.common.processes import process_state
from helpers.networks import Residual, randomize

torch.set_num_threads(1)


class Noise(Dataset):
    """96 images, changed a little at random each time one is read; the process dies at one read of them, where told to."""

    def __init__(self, dies_at: int = 0, random: bool = True):
        self.images = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        self.left, self.random = dies_at, random

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images[index] + (0.1 * torch.randn(3, 8, 8) if self.random else 0)


def pair():
    torch.manual_seed(0)
    teacher = randomize(Residual()).eval()
    return teacher, ghostify.convert(teacher, 2)


def recover(out: Path, dies_at: int = 0) -> None:
    teacher, student = pair()
    recipe = ghostify.Recipe(epochs=20, lr=0.01, ema=0.9, mixup=0.2, accumulate=2, clip=1.0)
    loader = DataLoader(Noise(dies_at), 8, shuffle=True)
    ghostify.distill(
        student, teacher, loader, val=Noise().images[:32], recipe=recipe, out=out, resume=True, checkpoint_seconds=0
    )
    torch.save(student.state_dict(), out / "weights.pt")


def share(out: Path) -> None:
    """Losses of a few steps, and an evaluation of images that do not divide by the number of processes."""
    teacher, student = pair()
    recipe = ghostify.Recipe(epochs=1, lr=0.01, relation=1.0, labels=0.5)
    images = Noise(random=False).images
    labels = teacher(images).argmax(1)
    data = torch.utils.data.TensorDataset(images, labels)
    ghostify.evaluate(teacher, (images, labels))  # whatever comes first joins the processes
    losses = []
    for _ in range(3):
        told = ghostify.distill(student, teacher, DataLoader(data, 16, shuffle=True, drop_last=True), recipe=recipe)
        losses.append([told.epochs[-1].loss, *told.epochs[-1].parts.values()])
    found = ghostify.evaluate(student, DataLoader(torch.utils.data.TensorDataset(images[:67], labels[:67]), 4))
    if int(os.environ.get("RANK", 0)) == 0:
        weights = torch.cat([tensor.flatten().double() for tensor in student.state_dict().values()])
        facts = {
            "losses": losses,
            "weights": weights.tolist(),
            "images": found.images,
            "top1": found.top1,
            "processes": process_state().num_processes,
        }
        out.write_text(json.dumps(facts))


def share_as_one_of(rank: int, number: int, port: int, out: Path) -> None:
    """As torchrun would call it."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    share(out)


if __name__ == "__main__":
    share(Path(sys.argv[1]))
