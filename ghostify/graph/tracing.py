"""The largest parts of a model that torch.fx can trace."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ..common.copying import copy_skeleton

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A submodule that traces: its qualified name, its graph with targets relative to it, and whether it is the model.

    ``entry`` is the qualified name of the module whose arguments are the graph's placeholders: the submodule itself, or the
    layer alone where all around it is opaque. ``constants`` is what the graph reads besides the submodule's own attributes.
    """

    name: str
    graph: fx.Graph
    whole: bool
    entry: str
    constants: nn.Module

    def qualified(self, target: str) -> str:
        return f"{self.name}.{target}" if self.name else target

    def holds(self, name: str) -> bool:
        """Whether the module of this qualified name lies in the part."""
        return not self.name or name == self.name or name.startswith(f"{self.name}.")

    def relative(self, name: str) -> str:
        """The target of a module that lies in the part."""
        return name[len(self.name) :].removeprefix(".")


Predicate = Callable[[nn.Module], bool]


def trace(model: nn.Module, is_site: Predicate, is_leaf: Predicate) -> list[Part]:
    """Trace ``model``, or where that fails its largest submodules that do trace.

    Only graphs are made: the model itself is neither run nor changed, since the tracer works on a skeleton that shares
    its tensors. A submodule whose own code can't be traced becomes one opaque node, and its children are traced apart.

    Args:
        model: any module; the structure of evaluation mode is traced, what only training reaches comes as further parts.
        is_site: tells the modules that are looked for (convolutions, Ghost modules).
        is_leaf: tells the modules that must appear as single nodes beside those (norms, activations).

    Returns:
        Parts that together call every module for which ``is_site`` is true.
    """
    skeleton = copy_skeleton(model, lambda m: type(m).__module__.startswith("torch.nn.") and not any(m.children()))
    return list(_parts("", skeleton, is_site, is_leaf))


class _Tracer(fx.Tracer):
    """Stops at leaves, at what timm says must not be traced, and at modules found to be opaque."""

    def __init__(self, is_leaf: Predicate, opaque: set[nn.Module]):
        registry = sys.modules.get("timm.models._features_fx")  # imported with any model of timm
        functions = registry.get_notrace_functions() if registry else ()
        super().__init__(autowrap_functions=tuple(functions), param_shapes_constant=True)
        self.leaf_types = tuple(registry.get_notrace_modules()) if registry else ()
        self.is_leaf = is_leaf
        self.opaque = opaque
        self.failed: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = self.is_leaf(m) or m in self.opaque or isinstance(m, self.leaf_types)
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m  # the innermost one raises first
            raise


def _parts(name: str, root: nn.Module, is_site: Predicate, is_leaf: Predicate) -> Iterator[Part]:
    if is_site(root):
        parent, _, child = name.rpartition(".")
        yield Part(parent, _single_call(child), whole=not name, entry=name, constants=root)
        return
    graph = _trace_graph(name, root, lambda m: is_site(m) or is_leaf(m))
    if graph is None:
        missing = list(root.named_children())
    else:
        yield Part(name, graph, whole=not name, entry=name, constants=root)
        called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        missing = list(_unreached(root, called, is_site))
    for child, module in missing:
        if _has_site(module, is_site):
            yield from _parts(f"{name}.{child}" if name else child, module, is_site, is_leaf)


def _trace_graph(name: str, root: nn.Module, is_leaf: Predicate) -> fx.Graph | None:
    """The graph of ``root``, with submodules that fail as opaque nodes; None where its own forward can't be traced."""
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


def _defaults(root: nn.Module) -> dict[str, Any]:
    """Arguments of forward that have a default keep it: a Proxy in place of None takes the wrong branch."""
    parameters = inspect.signature(root.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _unreached(root: nn.Module, called: set[str], is_site: Predicate, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Submodules with sites that the graph of ``root`` never calls: opaque nodes, and heads that only training uses."""
    for child, module in root.named_children():
        name = prefix + child
        inner = [name, *(f"{name}.{path}" for path, m in module.named_modules() if path and is_site(m))]
        if is_site(module) and name in called:
            continue
        if called.isdisjoint(inner[1:]):
            yield name, module
        else:
            yield from _unreached(module, called, is_site, f"{name}.")


def _has_site(module: nn.Module, is_site: Predicate) -> bool:
    return any(is_site(m) for m in module.modules())


def _single_call(target: str) -> fx.Graph:
    graph = fx.Graph()
    graph.output(graph.call_module(target, (graph.placeholder("input"),)))
    return graph
