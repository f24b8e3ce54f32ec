"""fold(): a network for inference, without norms, orders and modules that only training or conversion need."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..common.checks import check_model
from ..common.copying import copy_without_hooks
from ..errors import ArgumentTypeError
from ..graph.sites import is_listed
from ..graph.tracing import trace
from ..layers.ghost_module import GhostModule
from ..layers.patterns import is_kind, lookup
from ..surgery.swap import put
from .fold_report import FoldedPart, FoldReport
from .folded_ghost import FoldedGhost
from .part_folder import PartFolder


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
            folder = PartFolder(known[part.name], part, own, known, split)
            made = known[part.name] = folder.run()
            told += folder.told
            model = _with(model, part.name, made)
    model.folding = FoldReport(tuple(told))  # type: ignore[assignment]
    return model.eval()


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
