"""Places at which the maps of student and teacher are compared during training."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..common.calls import forward_hooks
from ..students.conversion_recipe import recipe_of


def find_places(student: nn.Module, teacher: nn.Module, run: Callable[[nn.Module], object]) -> list[str]:
    """Find the modules of the student whose outputs can be compared with those of the teacher's modules of the same name.

    They are the block of each convolution that was converted or narrowed, or the convolution's own site where that is no block,
    as in a plain stack of layers.

    Args:
        student: what :func:`ghostify.convert` made; another network has no such places.
        teacher: the original network.
        run: calls a model on the first batch.

    Returns:
        Names of modules, in the order of sites.
    """
    names = _candidates(student)
    teacher_modules = dict(teacher.named_modules(remove_duplicate=False))
    outer = [name for name in names if name in teacher_modules and not any(name.startswith(other + ".") for other in names)]
    with Recorder(student, outer) as student_recorder, Recorder(teacher, outer) as teacher_recorder:
        for recorder, model in ((student_recorder, student), (teacher_recorder, teacher)):
            recorder.listen()
            with torch.no_grad():
                run(model)
        student_outputs, teacher_outputs = student_recorder.take(), teacher_recorder.take()
    return [name for name in outer if _are_comparable(student_outputs.get(name, []), teacher_outputs.get(name, []))]


def _candidates(student: nn.Module) -> list[str]:
    """The block, or the last module of the site, of each converted convolution; each name once."""
    recipe = recipe_of(student)
    names: dict[str, None] = {}
    for record in recipe.sites if recipe else ():
        if (record.converted or record.absorbed) and record.kind == "conv":
            parent = record.name.rpartition(".")[0]
            stack = parent == "" or isinstance(student.get_submodule(parent), (nn.Sequential, nn.ModuleList, nn.ModuleDict))
            names[(record.act or record.norm or record.name) if stack else parent] = None
    return list(names)


def _are_comparable(student: Sequence["RecordedOutput"], teacher: Sequence["RecordedOutput"]) -> bool:
    """Whether these are maps of equal shapes, equally often, that nothing changes in place afterwards."""
    if not student or len(student) != len(teacher):
        return False
    return all(s.is_map and t.is_map and s.maps.shape == t.maps.shape for s, t in zip(student, teacher, strict=True))


class RecordedOutput:
    """What a module returned in one call.

    Attributes:
        maps: the output; maps (N, channels, ...) where :attr:`is_map` is true.
        version: the tensor's version at that time; it grows when something changes the tensor in place.
    """

    def __init__(self, output: object):
        self.maps: Any = output
        self.version = output._version if isinstance(output, Tensor) else 0

    @property
    def is_map(self) -> bool:
        """Whether the output is one tensor of maps, and nothing has changed it in place since."""
        return (
            isinstance(self.maps, Tensor)
            and self.maps.dim() > 2
            and self.maps.is_floating_point()
            and self.maps._version == self.version
        )


class Recorder:
    """Keeps what some modules of a model return, from :meth:`listen` to :meth:`take`; its hooks are on until :meth:`close`, or
    the end of a ``with`` block.

    Args:
        model: the network to listen to.
        names: of its modules.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]):
        self.outputs: dict[str, list[RecordedOutput]] = {}
        self.listening = False
        self._hooks = ExitStack()
        self._hooks.enter_context(forward_hooks(after=[(model.get_submodule(name), self._hook(name)) for name in names]))

    def _hook(self, name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: object, output: object) -> None:
            if self.listening:
                self.outputs.setdefault(name, []).append(RecordedOutput(output))

        return record

    def listen(self) -> None:
        """Keep outputs from now on."""
        self.listening = True

    def take(self) -> dict[str, list[RecordedOutput]]:
        """Stop listening, and hand over the outputs of each module by its name, in the order of calls."""
        self.listening = False
        outputs, self.outputs = self.outputs, {}
        return outputs

    def close(self) -> None:
        """Take the hooks off the model."""
        self._hooks.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
