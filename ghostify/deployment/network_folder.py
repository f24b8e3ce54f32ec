"""Folds the parts of a network, each compared with the student's own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from ..common.copying import become
from ..graph.tracing import Part
from ..graph.usage import has_hooks, is_patched
from ..layers.layer_classes import is_kind
from .fold_report import FoldedPart
from .part_folder import PartLayers, fold_as_graph, fold_modules
from .student_outputs import DIFFERS, StudentOutputs


class NetworkFolder:
    """Folds part after part of a network; ``folded`` notes what became of its layers.

    Args:
        model: a copy of the student for inference, which is changed.
        parts: its parts.
        traced: its parts as torch.fx alone sees them, where some of ``parts`` are recorded; those that are right become graphs
            all the same.
        outputs: those of the student.
        split: whether convolutions of maps that are made apart become sums of two.
        graphs: whether parts that trace become graphs. A module that has become one has no methods of its own any more.

    Attributes:
        model: the folded network, which may be another module.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Sequence[Part],
        traced: Sequence[Part],
        outputs: StudentOutputs,
        split: bool,
        graphs: bool,
    ):
        self.model, self.parts, self.traced = model, parts, traced
        self.outputs, self.split, self.graphs = outputs, split, graphs
        self.settled: list[Part] = []  # that have become graphs
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.folded: list[FoldedPart] = []
        nodes = [(part.qualified(str(node.target)), node.op) for part in parts for node in part.graph.nodes]
        calls = Counter(self.modules[name] for name, op in nodes if op == "call_module")
        owners = {name.rpartition(".")[0] for name, op in nodes if op == "get_attr"}
        several = {module for module, times in calls.items() if times > 1}
        self.shared = {name for name, module in self.modules.items() if module in several} | owners

    def fold(self) -> None:
        """Fold each part: as a graph, or else in place of its modules, or not at all."""
        for part in reversed(self.traced if self.graphs else ()):  # what an opaque module holds before what calls it
            if part.name and part.entry == part.name and not self._is_asked(part):
                self._fold_as_graph(part)
        for part in reversed(self.parts):
            if part.entry == part.name and not any(settled.holds(part.name) for settled in self.settled):
                self._fold_part(part)

    def _fold_part(self, part: Part) -> None:
        if not self.outputs.runs(part.name):
            self._note_norms(part, f"{part.name or 'the network'} does not run on the input that is known")
            return
        if not (self.graphs and not part.recorded and self._fold_as_graph(part)):
            self._fold_in_place(part, self._layers(part))

    def _fold_as_graph(self, part: Part) -> bool:
        """Put a graph in the place of a module, if it gives the same and keeps nothing of a call, which a graph would not."""
        root = self.modules[part.name]
        if has_hooks(root) or is_patched(root) or not self.outputs.runs(part.name) or self.outputs.writes(part.name):
            return False
        form, folded = fold_as_graph(root, self._layers(part), self.split)
        if self.outputs.difference(part.name, form) is not None:
            return False
        self._replace(root, form)
        self.folded += folded
        self.settled.append(part)
        return True

    def _is_asked(self, part: Part) -> bool:
        """Whether the code of a module around a part has the name of a method or property of the part's class."""
        own = {name for kind in type(self.modules[part.name]).__mro__ for name in vars(kind)} - set(dir(nn.Module))
        paths = part.name.split(".")
        around = (type(self.modules[".".join(paths[:length])]) for length in range(len(paths)))
        functions = (function for kind in around for function in vars(kind).values())
        return any(own.intersection(getattr(getattr(f, "__code__", None), "co_names", ())) for f in functions)

    def _fold_in_place(self, part: Part, layers: PartLayers) -> None:
        """Change modules where they stand: with other orders of channels, or else only norms that make no difference."""
        norms = [target for target, module in layers.modules.items() if is_kind(module, "norm")]

        def is_sound(some: Sequence[str]) -> bool:
            changes, _ = fold_modules(layers, kept=set(norms).difference(some), orders=False)
            return self._is_same(part, changes, undo=True)

        changes, folded = fold_modules(layers)
        if not self._is_same(part, changes):
            if not self._is_same(part, {}):  # what lies in it is at fault
                return self._note_norms(part, DIFFERS)
            sound = sound_items(norms, is_sound)
            changes, folded = fold_modules(layers, kept=set(norms).difference(sound), orders=False)
            if not self._is_same(part, changes):
                return self._note_norms(part, DIFFERS)
        self.folded += folded

    def _is_same(self, part: Part, changes: Mapping[nn.Module, nn.Module], undo: bool = False) -> bool:
        """Whether a part gives the student's outputs with these changes; those that do are left in place unless ``undo``."""
        before = {module: (type(module), dict(vars(module))) for module in changes}
        for module, replacement in changes.items():
            become(module, replacement)
        same = self.outputs.difference(part.name, self.modules[part.name]) is None
        for module, (kind, state) in before.items() if undo or not same else ():
            vars(module).clear()
            vars(module).update(state)
            object.__setattr__(module, "__class__", kind)
        return same

    def _layers(self, part: Part) -> PartLayers:
        modules = {part.relative(name): module for name, module in self.modules.items() if part.holds(name)}
        inside = (name for name in self.modules if part.holds(name) and any(done.holds(name) for done in self.settled))
        settled = {part.relative(name) for name in inside}
        return PartLayers(part, modules, {part.relative(name) for name in self.shared if part.holds(name)}, settled)

    def _replace(self, old: nn.Module, new: nn.Module) -> None:
        """Put a module in the place of another, under all of its names."""
        if old is self.model:
            self.model = new
        for parent in self.model.modules():
            for name, child in parent._modules.items():
                if child is old:
                    parent._modules[name] = new
        for name, module in self.modules.items():
            if module is old:
                self.modules[name] = new

    def _note_norms(self, part: Part, reason: str) -> None:
        norms = [name for name, module in self.modules.items() if part.holds(name) and is_kind(module, "norm")]
        self.folded += [FoldedPart(name, "norm", reason) for name in norms]


def sound_items(items: list[str], is_sound: Callable[[Sequence[str]], bool], sound: Sequence[str] = ()) -> list[str]:
    """Those of the items that are sound together, found by halving.

    Args:
        items: what is to be tried.
        is_sound: whether some items are sound together.
        sound: items that are known to be.
    """
    if not items or is_sound([*sound, *items]):
        return [*sound, *items]
    if len(items) == 1:
        return [*sound]
    half = len(items) // 2
    return sound_items(items[half:], is_sound, sound_items(items[:half], is_sound, sound))
