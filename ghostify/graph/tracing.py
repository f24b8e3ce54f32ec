"""Graphs of modules as torch.fx traces them, without running them, and the parts of a network that have graphs."""

import inspect
import logging
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import fx, nn

from ..common.copying import copy_skeleton
from ..common.traced_networks import set_mode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A submodule that has a graph, traced or recorded.

    Attributes:
        name: the qualified name of the submodule, which is empty for the model itself.
        graph: the graph of the submodule, whose targets are relative to the submodule.
        whole: whether the submodule is the model itself.
        entry: the qualified name of the module whose arguments are the graph's placeholders: the submodule itself, or the layer
            alone where all around the layer is opaque.
        constants: the module that has the attributes which the graph reads besides those of the submodule.
        recorded: whether the graph is of one call of the submodule, whose control flow it does not have.
    """

    name: str
    graph: fx.Graph
    whole: bool
    entry: str
    constants: nn.Module
    recorded: bool = False

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


def trace_in_training(model: nn.Module, is_leaf: Predicate) -> fx.Graph | None:
    """The graph of ``model`` in training mode, in which heads that help training are called; None where it does not trace.

    Args:
        model: any module, which is neither run nor changed.
        is_leaf: whether a module must be a single node in the graph.
    """
    skeleton = copy_skeleton(model, is_plain_leaf)
    for module in skeleton.modules():
        if module is skeleton or not is_plain_leaf(module):  # leaves are shared with the model
            set_mode(module, training=True)
    traced = trace_graph("", skeleton, is_leaf)
    return traced.graph if traced is not None else None


def is_plain_leaf(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's own that holds no others."""
    return type(module).__module__.startswith("torch.nn.") and not any(module.children())


def is_excluded(module: nn.Module) -> bool:
    """Whether torch.fx, or timm, says that a module must be a single node."""
    registry = sys.modules.get("timm.models._features_fx")  # imported with any model of timm
    excluded = tuple(registry.get_notrace_modules()) if registry else ()
    builtin = type(module).__module__.startswith(("torch.nn", "torch.ao.nn")) and not isinstance(module, nn.Sequential)
    return builtin or isinstance(module, (*excluded, torch.jit.ScriptModule))


class _Tracer(fx.Tracer):
    """A tracer that makes single nodes of leaves, of opaque modules, and of what timm excludes from tracing.

    Modules that do not belong to the one that is traced, such as those that a forward method makes, are gone into.

    Args:
        root: what will be traced.
        is_leaf: whether a module must be a single node in the graph.
        opaque: the modules whose own code can't be traced, as earlier attempts have shown.

    Attributes:
        failed: the innermost module of ``root`` whose code raised an error; None while no code has raised any.
    """

    def __init__(self, root: nn.Module, is_leaf: Predicate, opaque: Collection[nn.Module]):
        registry = sys.modules.get("timm.models._features_fx")
        functions = registry.get_notrace_functions() if registry else ()
        super().__init__(autowrap_functions=tuple(functions), param_shapes_constant=True)
        self.is_leaf = is_leaf
        self.opaque = opaque
        self.members = set(root.modules())
        self.failed: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self.is_leaf(m) or m in self.opaque or is_excluded(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        if m not in self.members:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # of any kind, since it is the network's code; it goes on, once it is known where it came from
            self.failed = self.failed or m  # the innermost one raises first
            raise


@dataclass(frozen=True)
class TracedGraph:
    """A graph that torch.fx has traced.

    Attributes:
        graph: the graph.
        failed: the modules that are single nodes in it because their own code can't be traced.
    """

    graph: fx.Graph
    failed: frozenset[nn.Module] = frozenset()


def trace_graph(
    name: str, root: nn.Module, is_leaf: Predicate, hooked: Collection[nn.Module] = (), given: Collection[str] = ()
) -> TracedGraph | None:
    """The graph of ``root``, in which submodules that can't be traced are single nodes.

    None where the forward method of ``root`` itself can't be traced.

    Args:
        name: the qualified name of ``root``, for the log.
        root: a module that may be changed: its code is run.
        is_leaf: whether a module must be a single node in the graph.
        hooked: modules that are single nodes because of their hooks.
        given: names of arguments of the forward method that are known to be tensors.
    """
    if isinstance(root, fx.GraphModule):
        return TracedGraph(root.graph)
    failed: set[nn.Module] = set()
    while True:  # ends: each time one more of the root's modules has failed
        tracer = _Tracer(root, is_leaf, failed.union(hooked))
        try:
            return TracedGraph(tracer.trace(root, concrete_args=_defaults(root, given)), frozenset(failed))
        except Exception as error:  # user code may raise anything at all when it meets a Proxy
            log.debug("%s does not trace: %s", name or type(root).__name__, error)
            if tracer.failed is None or tracer.failed in failed:
                return None
            failed.add(tracer.failed)


def _defaults(root: nn.Module, given: Collection[str]) -> dict[str, object]:
    """The defaults of the forward method's arguments that have one: a Proxy in place of None would take the wrong branch.

    Where nothing is given and all arguments have defaults, the first is the input.
    """
    parameters = list(inspect.signature(root.forward).parameters.values())
    if not given and parameters and parameters[0].default is not parameters[0].empty:
        given = {parameters[0].name}
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in given}
