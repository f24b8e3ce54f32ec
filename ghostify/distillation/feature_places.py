"""Places at which the maps of student and teacher are compared during training."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..students.recipe import recipe_of


def find_places(student: nn.Module, teacher: nn.Module, run: Any) -> list[str]:
    """Names of modules, in student and teacher, whose outputs can be compared: the block of each converted convolution, or
    the convolution's own site where that is no block, as in a plain stack of layers.

    Args:
        run: calls a model on the first batch.
    """
    recipe = recipe_of(student)
    names: dict[str, None] = {}
    for record in recipe.sites if recipe else ():
        if record.converted and record.kind == "conv":
            parent = record.name.rpartition(".")[0]
            stack = parent == "" or isinstance(student.get_submodule(parent), (nn.Sequential, nn.ModuleList, nn.ModuleDict))
            names[(record.act or record.norm or record.name) if stack else parent] = None
    theirs = dict(teacher.named_modules())
    outer = [name for name in names if name in theirs and not any(name.startswith(other + ".") for other in names)]
    with Recorder(student, outer) as mine, Recorder(teacher, outer) as their:
        for recorder, model in ((mine, student), (their, teacher)):
            recorder.listen()
            with torch.no_grad():
                run(model)
        seen = [recorder.take() for recorder in (mine, their)]
    return [name for name in outer if _comparable(seen[0].get(name, []), seen[1].get(name, []))]


def _comparable(mine: Sequence["Seen"], theirs: Sequence["Seen"]) -> bool:
    """Maps of equal shapes, equally often, that nothing changes in place afterwards."""
    if not mine or len(mine) != len(theirs):
        return False
    return all(a.is_map and b.is_map and a.maps.shape == b.maps.shape for a, b in zip(mine, theirs, strict=True))


class Seen:
    """What a module returned."""

    def __init__(self, output: Any):
        self.maps = output
        self.version = output._version if isinstance(output, Tensor) else 0

    @property
    def is_map(self) -> bool:
        return (
            isinstance(self.maps, Tensor)
            and self.maps.dim() > 2
            and self.maps.is_floating_point()
            and self.maps._version == self.version
        )


class Recorder:
    """Keeps what some modules of a model return, from :meth:`listen` to :meth:`take`."""

    def __init__(self, model: nn.Module, names: Sequence[str]):
        self.seen: dict[str, list[Seen]] = {}
        self.listening = False
        self.handles = [model.get_submodule(name).register_forward_hook(self._keeper(name)) for name in names]

    def _keeper(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.listening:
                self.seen.setdefault(name, []).append(Seen(output))

        return keep

    def listen(self) -> None:
        self.listening = True

    def take(self) -> dict[str, list[Seen]]:
        self.listening = False
        seen, self.seen = self.seen, {}
        return seen

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
