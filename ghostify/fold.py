"""fold(): a network for inference, without norms, orders and modules that only training or conversion need."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .channel_orders import ChannelOrders, Stream
from .checks import check_model
from .copying import copy_without_hooks
from .errors import ArgumentTypeError
from .folded import FoldedGhost, fold_norm, permute_inputs
from .joins import Joins
from .modules import GhostModule, narrow, take_channels
from .patterns import is_kind, lookup
from .rewrite import put
from .sites import is_listed
from .stream import attribute_of
from .text import plain
from .tracing import Part, trace

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

KINDS = ("norm", "channel order", "identity")


@dataclass(frozen=True)
class FoldedPart:
    """One layer, and what became of it.

    Attributes:
        name: qualified name of the layer.
        kind: ``"norm"``, ``"channel order"`` of a Ghost module, or ``"identity"`` (dropout and stochastic depth included).
        reason: why it had to stay; None where it is folded.
    """

    name: str
    kind: str
    reason: str | None = None


@dataclass(frozen=True)
class FoldReport:
    """What :func:`ghostify.fold` folded and what it could not; ``folded.folding``."""

    parts: tuple[FoldedPart, ...]

    def to_frame(self) -> "pd.DataFrame":
        """A DataFrame with a row for each layer."""
        import pandas as pd

        return pd.DataFrame([asdict(part) for part in self.parts], columns=["name", "kind", "reason"])

    def summary(self) -> str:
        """The totals in a few lines."""
        lines = []
        for kind in KINDS:
            mine = [part for part in self.parts if part.kind == kind]
            left = Counter(part.reason for part in mine if part.reason)
            told = "".join(f"; {count} left: {reason}" for reason, count in left.most_common(3))
            if mine:
                lines.append(f"{kind:14s}{len(mine) - sum(left.values())} of {len(mine)} folded{told}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return plain(self)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.table import Table

        left = [part for part in self.parts if part.reason]
        if left:
            table = Table(box=None, pad_edge=False)
            for title in ("left as it was", "kind", "reason"):
                table.add_column(title)
            for part in left:
                table.add_row(part.name, part.kind, part.reason)
            yield table
            yield ""
        yield self.summary()


def fold(student: nn.Module) -> nn.Module:
    """Make a network ready for inference; it computes the same with less.

    Batch norms go into the convolutions before them. Ghost modules no longer put their channels into the original order where
    the layers that follow can take them as they come: through activations, pools, norms, depthwise convolutions, sums and
    concatenations up to the next convolution, whose input channels are permuted instead. Identity, dropout and stochastic depth
    go. The result can't be trained, converted or saved by :func:`ghostify.save`; export it, or keep the student.

    Args:
        student: a converted network, or any other; of one that is folded you get a copy. It is not changed.

    Returns:
        A ``torch.fx.GraphModule``; where only parts of the network trace, a copy of it with those parts as such. Its outputs
        are the student's in evaluation mode, up to rounding (relative 1e-5 in float32). ``folding`` is a :class:`FoldReport`.

    Raises:
        ArgumentTypeError, UnsupportedModelError: no module, or one that hides its layers.

    Example:
        >>> folded = ghostify.fold(student)
        >>> print(folded.folding)
    """
    return for_inference(student, folded=True)


def for_inference(model: nn.Module, folded: bool, split: bool = True) -> nn.Module:
    """A copy in evaluation mode that nobody listens to; folded, if it is to be and is not yet.

    Args:
        split: whether convolutions of maps that are made apart become sums of two; not where sums are rounded, as in int8.
    """
    if folded and not isinstance(getattr(model, "folding", None), FoldReport):
        return _folded(model, split)
    return copy_without_hooks(model).eval()


def _folded(student: nn.Module, split: bool) -> nn.Module:
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a torch.nn.Module, not {type(student).__name__}")
    check_model(student)
    model = copy_without_hooks(student).eval().requires_grad_(False)
    parts = trace(model, is_listed, lambda m: lookup(m) is not None)
    calls = Counter(p.qualified(str(n.target)) for p in parts for n in p.graph.nodes if n.op == "call_module")
    read = {p.qualified(str(n.target)).rpartition(".")[0] for p in parts for n in p.graph.nodes if n.op == "get_attr"}
    shared = {name for name, count in calls.items() if count > 1} | read
    shared |= {name for name, count in _names(model).items() if count > 1}
    told: list[FoldedPart] = []
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, GhostModule)]:
        model = _with(model, name, FoldedGhost(module))
        told += _inner_norms(name, module, model.get_submodule(name))
    known: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
    for part in reversed(parts):  # what an opaque module holds before what calls it
        if part.entry == part.name:
            own = {part.relative(name) for name in shared if part.holds(name)}
            folder = _Folder(known[part.name], part, own, known, split)
            made = known[part.name] = folder.run()
            told += folder.told
            model = _with(model, part.name, made)
    model.folding = FoldReport(tuple(told))  # type: ignore[assignment]
    return model.eval()


class _Folder:
    """Folds one part that traces."""

    def __init__(self, root: nn.Module, part: Part, shared: set[str], known: dict[str, Any], split: bool):
        self.root, self.part = root, part
        self.shared, self.split = shared, split
        self.graph = fx.Graph()
        self.graph.output(self.graph.graph_copy(part.graph, {}))
        # as they were before other parts were folded, or a part of which only some modules run would lack the others
        self.modules = {part.relative(name): module for name, module in known.items() if part.holds(name)}
        self.told: list[FoldedPart] = []

    def run(self) -> fx.GraphModule:
        self._strip()
        self._norms()
        self._orders()
        Joins(self.graph, self.modules, self.shared, self.split)
        targets = {str(node.target) for node in self.graph.nodes if node.op in ("call_module", "get_attr")}
        named = {
            target: self.modules[target] if target in self.modules else attribute_of(self.root, self.part.constants, target)
            for target in targets
        }
        made = fx.GraphModule(named, self.graph, type(self.root).__name__)
        for name, value in vars(self.root).items():
            if name not in vars(made) and not name.startswith("_") and not isinstance(value, Tensor):
                setattr(made, name, value)  # what the code around this part may ask of it
        return made

    def _calls(self) -> Iterator[tuple[fx.Node, Any]]:
        """Calls of modules that stand in this place alone."""
        for node in list(self.graph.nodes):
            if node.op == "call_module":
                yield node, self.modules[str(node.target)]

    def _strip(self) -> None:
        for node in list(self.graph.nodes):
            module = self.modules[str(node.target)] if node.op == "call_module" else None
            if _does_nothing(node, module):
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)
                if node.op == "call_module":
                    self._tell(str(node.target), "identity")

    def _norms(self) -> None:
        for node, norm in self._calls():
            if not is_kind(norm, "norm"):
                continue
            before = node.all_input_nodes[0]
            layer = self.modules[str(before.target)] if before.op == "call_module" else None
            reason = None
            if layer is None or not (is_kind(layer, "conv") or isinstance(layer, nn.Linear)):
                reason = f"follows {'a ' + type(layer).__name__ if layer is not None else before.name}, not a convolution"
            elif len(before.users) > 1:
                reason = f"{before.target} has other users, too"
            elif {str(node.target), str(before.target)} & self.shared:
                reason = "is called more than once, as is the convolution, or one of the two"
            else:
                folded = fold_norm(layer, norm)
                if folded is None:
                    reason = f"{type(layer).__name__} or {type(norm).__name__} is not a fixed scale and shift"
                else:
                    self._replace(node, before, *folded)
            self._tell(str(node.target), "norm", reason)

    def _replace(self, node: fx.Node, before: fx.Node, layer: nn.Module, act: nn.Module | None) -> None:
        self.modules[str(before.target)] = layer
        if act is not None:
            self.modules[str(node.target)] = act
        else:
            node.replace_all_uses_with(before)
            self.graph.erase_node(node)

    def _orders(self) -> None:
        found = ChannelOrders(self.graph, self.modules, self.shared)
        for stream in found.streams:
            if stream.order is not None:
                self._permute(stream, stream.order)
        for stream in found.streams:
            for node in stream.ghosts:
                ghost = self.modules[str(node.target)]
                natural = torch.equal(ghost.made, torch.arange(len(ghost.made)))
                if ghost.order is not None:
                    reason = stream.fixed or "other layers that make the same sum have another order"
                    self._tell(str(node.target), "channel order", reason)
                elif not natural:
                    self._tell(str(node.target), "channel order")

    def _permute(self, stream: Stream, order: Tensor) -> None:
        for node in stream.ghosts:
            self.modules[str(node.target)].set_order(order)
        for node in [*stream.free, *stream.carriers]:
            target = str(node.target)
            self.modules[target] = narrow(self.modules[target], order)
        for node in stream.takers:
            module = self.modules[str(node.target)]
            permute_inputs(module.primary[0] if isinstance(module, FoldedGhost) else module, order)
        restored: dict[fx.Node, fx.Node] = {}
        back = torch.argsort(order)
        for value, reader in stream.needs:
            if value not in restored:
                restored[value] = self._restore(value, back, stream)
            reader.replace_input_with(value, restored[value])

    def _restore(self, value: fx.Node, back: Tensor, stream: Stream) -> fx.Node:
        name = f"order_of_{value.name}"
        self.modules[name] = back.to(next(self.root.parameters()).device)
        with self.graph.inserting_after(value):
            index = self.graph.get_attr(name)
        with self.graph.inserting_after(index):
            restored = self.graph.call_function(take_channels, (value, index, stream.dim))
        restored.meta["is_wrapped"] = True  # as a trace marks it: unpickling traces the code again
        return restored

    def _tell(self, target: str, kind: str, reason: str | None = None) -> None:
        self.told.append(FoldedPart(self.part.qualified(target), kind, reason))


def _does_nothing(node: fx.Node, module: Any) -> bool:
    """In evaluation mode."""
    if module is not None:
        names = ("DropPath", "StochasticDepth")
        return isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)) or type(module).__name__ in names
    if node.op != "call_function":
        return False
    if node.target in (F.dropout, F.dropout2d, F.alpha_dropout):
        return (node.args[2] if len(node.args) > 2 else node.kwargs.get("training", True)) is False
    return getattr(node.target, "__name__", "") == "stochastic_depth" and node.kwargs.get("training", True) is False


def _inner_norms(name: str, ghost: GhostModule, folded: Any) -> Iterator[FoldedPart]:
    for part, chain, left in (
        ("primary_conv", ghost.primary_conv, folded.primary), ("cheap_operation", ghost.cheap_operation, folded.ghosts.cheap)
    ):  # fmt: skip
        kept = set(map(id, left))
        for position, layer in enumerate(chain):
            if is_kind(layer, "norm"):
                reason = f"{type(chain[0]).__name__} or {type(layer).__name__} is not a fixed scale and shift"
                yield FoldedPart(f"{name}.{part}.{position}", "norm", reason if id(layer) in kept else None)


def _names(model: nn.Module) -> Mapping[str, int]:
    """How many names the module of each name has."""
    count = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    return {name: count[id(module)] for name, module in model.named_modules(remove_duplicate=False)}


def _with(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The model with a module in place, which may be the whole of it."""
    if not name:
        return module
    put(model, name, module)
    return model
