"""What a checkpoint of a run holds, how the run goes on from it, and the checks that it belongs to this run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..common.files import PlainData
from ..common.tensors import checksum_of_state, load_strictly, state_of
from ..errors import ArgumentError
from .checkpoint_file import read_checkpoint, write_checkpoint
from .progress import Progress
from .stepper import Stepper
from .training_recipe import Recipe

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class RunIdentity:
    """What must be as it was when a run goes on from a checkpoint.

    Attributes:
        recipe: settings of the run.
        batches: number of training batches; 0 where that is not known.
        teacher: checksum of the teacher's weights.
        has_val: whether the run validates.
    """

    recipe: Recipe
    batches: int
    teacher: int
    has_val: bool

    def facts(self) -> dict[str, object]:
        """The identity as a checkpoint holds it."""
        return {"recipe": asdict(self.recipe), "batches": self.batches, "teacher": self.teacher, "val": self.has_val}

    def check(self, facts: PlainData, path: Path) -> None:
        """Compare this run with that of a checkpoint.

        Args:
            facts: what the checkpoint holds.
            path: of the checkpoint, for errors.

        Raises:
            ArgumentError: the checkpoint is of a run with another recipe, other data or another teacher.
        """
        saved, settings = facts["recipe"], asdict(self.recipe)
        other = [name for name in settings if settings[name] != saved.get(name)]
        if other:
            name = other[0]
            raise ArgumentError(
                f"checkpoint {str(path)!r} is of another recipe: {name} was {saved.get(name)!r}, not {settings[name]!r}"
            )
        if facts["batches"] != self.batches:
            raise ArgumentError(
                f"checkpoint {str(path)!r} is of other data: it had {facts['batches']} batches, not {self.batches}"
            )
        if facts["teacher"] != self.teacher:
            raise ArgumentError(f"checkpoint {str(path)!r} is of a run towards another teacher: its weights differ")
        if facts["val"] != self.has_val:
            reason = "had val, to choose the best weights by: give it again" if facts["val"] else "had no val: leave it out"
            raise ArgumentError(f"checkpoint {str(path)!r} is of a run that {reason}")


class Checkpoint:
    """The checkpoint of a run.

    Args:
        path: of its file.
        identity: of the run.
    """

    def __init__(self, path: Path, identity: RunIdentity):
        self.path, self.identity = path, identity

    def save(self, stepper: Stepper, best: Weights, progress: Progress) -> None:
        """Write the file anew.

        Args:
            stepper: its student, running average, optimizer and loss scale.
            best: weights of the best epoch; empty before the first validation.
            progress: how far the run is.

        Raises:
            GhostifyError: the file can't be written; the one before it is whole.
        """
        optimizer_tensors, optimizer_values = _pack_optimizer(stepper.optimizer)
        groups = {"student": state_of(stepper.student), "optimizer": optimizer_tensors, "best": best}
        if stepper.ema is not None:
            groups["ema"] = state_of(stepper.ema.module)
        facts = {
            **self.identity.facts(),
            "progress": asdict(progress),
            "optimizer": optimizer_values,
            "scaler": stepper.scaler.state_dict(),
        }
        write_checkpoint(self.path, groups, facts)

    def restore(self, stepper: Stepper) -> tuple[Progress, Weights]:
        """Give student, running average, optimizer and loss scale the state that the file holds.

        Returns:
            How far the run was, and the weights of its best epoch; these are empty where there is none.

        Raises:
            ArgumentError: the file can't be read, or is of another run.
        """
        groups, facts = read_checkpoint(self.path)
        self.identity.check(facts, self.path)
        load_state(stepper.student, groups["student"], self.path)
        if stepper.ema is not None:
            load_state(stepper.ema.module, groups["ema"], self.path)
        _unpack_optimizer(stepper.optimizer, groups.get("optimizer", {}), facts["optimizer"])
        stepper.scaler.load_state_dict(facts["scaler"])
        return Progress.from_dict(facts["progress"]), groups.get("best", {})


def load_state(model: nn.Module, state: Weights, path: Path) -> None:
    """Load the weights that a checkpoint holds.

    Args:
        model: the network that gets them.
        state: the weights by name.
        path: of the checkpoint, for errors.

    Raises:
        ArgumentError: they are those of another student.
    """
    current = state_of(model)
    if current.keys() != state.keys() or any(current[name].shape != state[name].shape for name in current):
        raise ArgumentError(f"checkpoint {str(path)!r} is of another student: its layers differ")
    load_strictly(model, state)


def checksum_of_teacher(teacher: nn.Module) -> int:
    """Checksum of names, types, shapes and values of the teacher's weights."""
    return checksum_of_state(state_of(teacher))


def _pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Weights, dict[str, object]]:
    """The tensors of an optimizer's state, and its other values, each by the number of its parameter and its key."""
    state = optimizer.state_dict()["state"]
    named = {f"{number}/{key}": value for number, values in state.items() for key, value in values.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in named.items() if not isinstance(value, Tensor)}


def _unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Weights, values: Mapping[str, object]) -> None:
    """Load the state that :func:`_pack_optimizer` took apart."""
    state: dict[int, dict[str, object]] = {}
    for name, value in {**tensors, **values}.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
