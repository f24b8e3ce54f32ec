"""The largest parts of a model that torch.fx can trace."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import fx, nn

from ..common.copying import copy_skeleton

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A submodule that torch.fx traces, and its graph.

    Attributes:
        name: the qualified name of the submodule, which is empty for the model itself.
        graph: the graph of the submodule, whose targets are relative to the submodule.
        whole: whether the submodule is the model itself.
        entry: the qualified name of the module whose arguments are the graph's placeholders: the submodule itself, or the layer
            alone where all around the layer is opaque.
        constants: the module that has the attributes which the graph reads besides those of the submodule.
    """

    name: str
    graph: fx.Graph
    whole: bool
    entry: str
    constants: nn.Module

    def qualified(self, target: str) -> str:
        """The qualified name of the module or attribute that is the target of a node."""
        return f"{self.name}.{target}" if self.name else target

    def holds(self, name: str) -> bool:
        """Whether the module of this qualified name lies in the part."""
        return not self.name or name == self.name or name.startswith(f"{self.name}.")

    def relative(self, name: str) -> str:
        """The target that the graph has for the module of this qualified name, which lies in the part."""
        return name[len(self.name) :].removeprefix(".")


def lies_in(name: str, folder: str) -> bool:
    """Whether the module ``name`` is the module ``folder`` or lies in it; all lie in the network itself, ``""``."""
    return not folder or name == folder or name.startswith(folder + ".")


Predicate = Callable[[nn.Module], bool]


def trace(model: nn.Module, is_site: Predicate, is_leaf: Predicate) -> list[Part]:
    """Trace ``model``, or where that fails its largest submodules that do trace.

    The model itself is neither run nor changed: the tracer works on a skeleton that shares the model's tensors. A submodule
    whose own code can't be traced becomes one opaque node, and its children are traced by themselves.

    Args:
        model: any module. The graphs show its structure in evaluation mode; modules that only training reaches come in
            further parts.
        is_site: whether a module is one of those that the graphs are traced for, such as convolutions and Ghost modules.
        is_leaf: whether a module must be a single node in the graphs without being a site, as norms and activations must.

    Returns:
        Parts that together call every module for which ``is_site`` is true.
    """
    return list(_parts("", copy_skeleton(model, _is_plain_leaf), is_site, is_leaf, set()))


def trace_in_training(model: nn.Module, is_leaf: Predicate) -> fx.Graph | None:
    """The graph of ``model`` in training mode, in which heads that help training are called; None where it does not trace.

    Args:
        model: any module, which is neither run nor changed.
        is_leaf: whether a module must be a single node in the graph.
    """
    skeleton = copy_skeleton(model, _is_plain_leaf)
    for module in skeleton.modules():
        if module is skeleton or not _is_plain_leaf(module):  # leaves are shared with the model
            module.training = True
    return _trace_graph("", skeleton, is_leaf)


def _is_plain_leaf(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.") and not any(module.children())


class _Tracer(fx.Tracer):
    """A tracer that makes single nodes of leaves, of opaque modules, and of what timm excludes from tracing.

    Args:
        is_leaf: whether a module must be a single node in the graph.
        opaque: the modules whose own code can't be traced, as earlier attempts have shown.

    Attributes:
        failed: the innermost module whose code raised an error; None while no code has raised any.
    """

    def __init__(self, is_leaf: Predicate, opaque: set[nn.Module]):
        registry = sys.modules.get("timm.models._features_fx")  # imported with any model of timm
        functions = registry.get_notrace_functions() if registry else ()
        super().__init__(autowrap_functions=tuple(functions), param_shapes_constant=True)
        self.leaf_types = tuple(registry.get_notrace_modules()) if registry else ()
        self.is_leaf = is_leaf
        self.opaque = opaque
        self.failed: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_single_node = self.is_leaf(m) or m in self.opaque or isinstance(m, self.leaf_types)
        return is_single_node or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # of any kind, since it is the network's code; it goes on, once it is known where it came from
            self.failed = self.failed or m  # the innermost one raises first
            raise


def _parts(name: str, root: nn.Module, is_site: Predicate, is_leaf: Predicate, seen: set[nn.Module]) -> Iterator[Part]:
    """The parts of the module ``root`` of this qualified name: the module itself, and submodules that its graph leaves out.

    A module that has several names is looked at once; ``seen`` has those that were.
    """
    seen.add(root)
    if is_site(root):
        parent, _, child = name.rpartition(".")
        yield Part(parent, _single_call(child), whole=not name, entry=name, constants=root)
        return
    graph = _trace_graph(name, root, lambda m: is_site(m) or is_leaf(m))
    if graph is None:
        missing = list(root.named_children())
    else:
        yield Part(name, graph, whole=not name, entry=name, constants=root)
        called = {root.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
        missing = list(_unreached(root, called, is_site))
    for child, module in missing:
        if _has_site(module, is_site) and module not in seen:
            yield from _parts(f"{name}.{child}" if name else child, module, is_site, is_leaf, seen)


def _trace_graph(name: str, root: nn.Module, is_leaf: Predicate) -> fx.Graph | None:
    """The graph of ``root``, in which submodules that can't be traced are opaque nodes.

    None where the forward method of ``root`` itself can't be traced.
    """
    if isinstance(root, fx.GraphModule):
        return root.graph
    opaque: set[nn.Module] = set()
    while True:
        tracer = _Tracer(is_leaf, opaque)
        try:
            return tracer.trace(root, concrete_args=_defaults(root))
        except Exception as error:  # user code may raise anything at all when it meets a Proxy
            log.debug("%s does not trace: %s", name or type(root).__name__, error)
            if tracer.failed is None or tracer.failed in opaque:
                return None
            opaque.add(tracer.failed)


def _defaults(root: nn.Module) -> dict[str, object]:
    """The defaults of the forward method's arguments that have one: a Proxy in place of None would take the wrong branch."""
    parameters = inspect.signature(root.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _unreached(
    root: nn.Module, called: set[nn.Module], is_site: Predicate, prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The names and modules of submodules whose sites the graph of ``root`` never calls.

    These are opaque submodules, and heads that run in training mode alone.

    Args:
        root: the module that is traced, or a submodule of it in the recursion.
        called: the modules that the graph calls, whatever their names.
        is_site: whether a module is a site.
        prefix: the name of ``root`` in the graph, with a dot behind it; empty for the module that is traced.
    """
    for child, module in root.named_children():
        name = prefix + child
        if is_site(module) and module in called:
            continue
        inside = {inner for inner in module.modules() if inner is not module and is_site(inner)}
        if module in called or called.isdisjoint(inside):
            yield name, module
        else:
            yield from _unreached(module, called, is_site, f"{name}.")


def _has_site(module: nn.Module, is_site: Predicate) -> bool:
    """Whether the module is a site or has one among its submodules."""
    return any(is_site(m) for m in module.modules())


def _single_call(target: str) -> fx.Graph:
    """A graph that calls one module, on its one input."""
    graph = fx.Graph()
    graph.output(graph.call_module(target, (graph.placeholder("input"),)))
    return graph
