"""fold(): a network for inference, without norms, orders and modules that only training or conversion need."""

from collections import Counter
from collections.abc import Iterator, Sequence

from torch import nn

from ..common.checks import check_model
from ..errors import ArgumentTypeError
from ..graph.find_sites import trace_layers
from ..graph.tracing import Part
from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import is_kind
from ..surgery.swap import put
from .fold_report import FoldedPart, FoldReport
from .folded_ghost import FoldedGhost, fold_ghost
from .inference_copy import inference_copy
from .part_folder import fold_part


def fold(student: nn.Module) -> nn.Module:
    """Make a network ready for inference; it computes the same with less.

    Batch norms go into the convolutions before them. Ghost modules no longer put their channels into the original order where
    the layers that follow can take them as they come: through activations, pools, norms, depthwise convolutions, sums and
    concatenations up to the next convolution, whose input channels are permuted instead. Identity, dropout and stochastic depth
    go. Layers that absorbed ghosts made narrower are folded like any others. The result can't be trained, converted or saved by
    :func:`ghostify.save`; export it, or keep the student.

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
    """A copy in evaluation mode; folded, if it is to be and is not yet.

    Args:
        model: it is not changed.
        folded: whether the copy is to be folded.
        split: whether convolutions of maps that are made apart become sums of two; not where sums are rounded, as in int8.
    """
    if folded and not isinstance(getattr(model, "folding", None), FoldReport):
        return _folded(model, split)
    return inference_copy(model)


def _folded(student: nn.Module, split: bool) -> nn.Module:
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a torch.nn.Module, not {type(student).__name__}")
    check_model(student)
    model = inference_copy(student)
    parts = trace_layers(model)
    shared = _shared_names(model, parts)
    folded: list[FoldedPart] = []
    for name, ghost in [(name, module) for name, module in model.named_modules() if isinstance(module, GhostModule)]:
        replacement = fold_ghost(ghost)
        model = _with(model, name, replacement)
        folded += _inner_norms(name, ghost, replacement)
    modules = dict(model.named_modules(remove_duplicate=False))
    for part in reversed(parts):  # what an opaque module holds before what calls it
        if part.entry == part.name:
            shared_here = {part.relative(name) for name in shared if part.holds(name)}
            modules[part.name], folded_here = fold_part(modules[part.name], part, shared_here, modules, split)
            folded += folded_here
            model = _with(model, part.name, modules[part.name])
    model.folding = FoldReport(tuple(folded))  # type: ignore[assignment]
    return model.eval()


def _shared_names(model: nn.Module, parts: Sequence[Part]) -> set[str]:
    """Names of modules that are called more than once, have more than one name, or whose weights are read from outside."""
    nodes = [(part.qualified(str(node.target)), node.op) for part in parts for node in part.graph.nodes]
    calls = Counter(name for name, op in nodes if op == "call_module")
    read = {name.rpartition(".")[0] for name, op in nodes if op == "get_attr"}
    names = list(model.named_modules(remove_duplicate=False))
    count = Counter(id(module) for _, module in names)
    return {name for name, times in calls.items() if times > 1} | read | {name for name, m in names if count[id(m)] > 1}


def _inner_norms(name: str, ghost: GhostModule, folded: FoldedGhost) -> Iterator[FoldedPart]:
    """What became of the norms inside a Ghost module."""
    chains = (
        ("primary_conv", ghost.primary_conv, folded.primary),
        ("cheap_operation", ghost.cheap_operation, folded.ghosts.cheap),
    )
    for part, chain, folded_chain in chains:
        kept = {id(layer) for layer in folded_chain}
        for position, layer in enumerate(chain):
            if is_kind(layer, "norm"):
                reason = f"{type(chain[0]).__name__} or {type(layer).__name__} is not a fixed scale and shift"
                yield FoldedPart(f"{name}.{part}.{position}", "norm", reason if id(layer) in kept else None)


def _with(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The model with a module in place, which may be the whole of it."""
    if not name:
        return module
    put(model, name, module)
    return model
