"""fold(): a network for inference, without norms, orders and modules that only training or conversion need."""

from torch import Tensor, nn

from ..common.calls import evaluation_mode
from ..common.checks import check_model
from ..common.copying import become
from ..errors import ArgumentTypeError
from ..graph.find_sites import trace_layers
from ..graph.usage import has_hooks, is_patched
from ..inputs.examples import running_input
from ..layers.ghost_module import GhostModule
from ..layers.layer_classes import is_kind
from .fold_report import FoldedPart, FoldReport
from .folded_ghost import fold_ghost
from .inference_copy import inference_copy
from .network_folder import NetworkFolder
from .part_folder import inner_norms
from .student_outputs import StudentOutputs


def fold(student: nn.Module, example_input: object = None) -> nn.Module:
    """Make a network ready for inference; it computes the same with less.

    Batch norms go into the convolutions before them. Ghost modules no longer put their channels into the original order where
    the layers that follow can take them as they come: through activations, pools, norms, depthwise convolutions, sums and
    concatenations up to the next convolution, whose input channels are permuted instead. Identity, dropout and stochastic depth
    go. Layers that absorbed ghosts made narrower are folded like any others. Weights that are made of others at each call
    (weight norm, spectral norm, pruning masks) become plain ones. Hooks stay, and what they are on is left as it is. The result
    can't be trained, converted or saved by :func:`ghostify.save`; export it, or keep the student.

    Part by part the result is compared with the student itself, in evaluation mode, on inputs of two batch sizes. A part that
    would differ stays as it is; ``folding`` says why. Where no input is known, only the insides of Ghost modules are folded.

    Args:
        student: a converted network, or any other; of one that is folded you get a copy. It is not changed. Its hooks run
            meanwhile.
        example_input: a tensor, a shape such as ``(1, 3, 224, 224)``, or a tuple of arguments, to compare outputs on. None for
            what the network's kind takes, or for a guess that the network runs on.

    Returns:
        A ``torch.fx.GraphModule`` where torch.fx traces the network, it has no hooks itself and the graph gives its outputs;
        else a copy of the network in which parts are such graphs, or layers are changed where they stand, so that each class,
        property and method stays. Outputs are the student's in evaluation mode, up to rounding (relative 1e-5 in float32).
        ``folding`` is a :class:`FoldReport`.

    Raises:
        ArgumentError, ArgumentTypeError, UnsupportedModelError: no module, one that hides its layers, or no input.

    Example:
        >>> folded = ghostify.fold(student)
        >>> print(folded.folding)
    """
    return for_inference(student, folded=True, example=example_input)


def for_inference(
    model: nn.Module, folded: bool, split: bool = True, example: object = None, otherwise: Tensor | None = None
) -> nn.Module:
    """A copy in evaluation mode, hooks and all; folded, if it is to be and is not yet.

    Args:
        model: it is not changed.
        folded: whether the copy is to be folded.
        split: whether convolutions of maps that are made apart become sums of two; not where sums are rounded, as in int8.
        example: an input, see :func:`fold`.
        otherwise: an input for networks of which none is known; a smaller one that is guessed takes less time.
    """
    if folded and not isinstance(getattr(model, "folding", None), FoldReport):
        return _folded(model, split, example, otherwise)
    return inference_copy(model)


def _folded(student: nn.Module, split: bool, example: object, otherwise: Tensor | None) -> nn.Module:
    if not isinstance(student, nn.Module):
        raise ArgumentTypeError(f"student must be a torch.nn.Module, not {type(student).__name__}")
    check_model(student)
    model = inference_copy(student)
    arguments = running_input(student, example)
    if arguments is None and otherwise is not None:
        arguments = (otherwise,), {}
    if arguments is None:
        return _reported(model, _fold_ghosts(model), "")
    outputs = StudentOutputs(student, arguments)
    with evaluation_mode(student):  # a hook may hold the student, and run it
        parts = trace_layers(model, arguments, probes=outputs.probes)
    traced = trace_layers(model) if any(part.recorded for part in parts) else []
    outputs.names = [part.name for part in [*parts, *traced] if part.name == part.entry]
    for graphs in (True, False):
        folder = NetworkFolder(model, parts, traced, outputs, split, graphs)
        folder.fold()
        folder.folded += _fold_ghosts(folder.model)
        reason = outputs.whole_difference(folder.model)
        if reason is None:
            return _reported(folder.model, folder.folded, outputs.shapes)
        model = inference_copy(student)  # the other one is partly changed
    left = (FoldedPart(name, "norm", reason) for name, module in model.named_modules() if is_kind(module, "norm"))
    return _reported(model, list(left), outputs.shapes)


def _reported(model: nn.Module, folded: list[FoldedPart], shapes: str) -> nn.Module:
    model.folding = FoldReport(tuple(folded), shapes)  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def _fold_ghosts(model: nn.Module) -> list[FoldedPart]:
    """Fold what lies within Ghost modules, which restore the original order of their channels; in place."""
    folded: list[FoldedPart] = []
    for name, ghost in [(name, module) for name, module in model.named_modules() if isinstance(module, GhostModule)]:
        if not any(has_hooks(module) or is_patched(module) for module in ghost.modules()):
            replacement = fold_ghost(ghost)
            folded += inner_norms(name, ghost, replacement)
            become(ghost, replacement)
    return folded
