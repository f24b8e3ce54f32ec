"""The parts of a network that have graphs: traced, and with a known input checked, or recorded where tracing fails or lies."""

import inspect
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ..common.calls import Arguments, evaluation_mode
from ..common.copying import copy_skeleton, copy_to_run
from ..common.hooks import hooks_with_modules, keep_hooks
from ..common.random_state import seeded
from .probes import SEED, Call, Probes, copied, is_same
from .recording import record
from .running import GraphRun
from .tracing import Part, Predicate, TracedGraph, is_excluded, is_plain_leaf, trace_graph
from .usage import has_hooks

log = logging.getLogger(__name__)

MEMORY = 1 << 30  # bytes of values of a check that stay in memory


def find_parts(
    model: nn.Module,
    is_site: Predicate,
    is_leaf: Predicate,
    arguments: Sequence[Arguments] = (),
    probes: Probes | None = None,
) -> list[Part]:
    """The graph of ``model``, or where there is none those of its largest submodules that have one.

    The model is not changed: tracing works on a skeleton that shares the model's tensors. A submodule whose own code can't be
    traced, or that carries forward hooks without being a leaf, becomes one opaque node, and its inside further parts.

    With arguments each traced graph is run on inputs like these. Where it does not give what the module itself gives, and
    where modules are opaque to torch.fx, the module is run and recorded; a recorded graph is checked for two numbers of
    images, on other values.

    Args:
        model: any module. The graphs show its structure in evaluation mode; modules that only training reaches come in
            further parts.
        is_site: whether a module is one of those that the graphs are for, such as convolutions and Ghost modules.
        is_leaf: whether a module must be a single node in the graphs without being a site, as norms and activations must.
        arguments: of forward passes of the model, for each size of images that matters; empty where none are known, and graphs
            are taken as torch.fx traces them.
        probes: calls, with these arguments, of a copy that gives what the model gives; None to make some.

    Returns:
        Parts that together call every module for which ``is_site`` is true, those around others before these.
    """
    if any(isinstance(value, (list, tuple)) for args, _ in arguments for value in args):
        arguments = ()  # images in a list, as detectors take them, which choose by values: passes cost, and nothing is recorded
    search = _Search(model, is_site, is_leaf, arguments, probes if arguments else None)
    # a closure may hold the model itself, and run it
    with evaluation_mode(model) if arguments else nullcontext():
        return list(search.parts("", search.skeleton))


class _Search:
    """Goes through a network from outside to inside.

    Args:
        model, is_site, is_leaf, arguments, probes: of :func:`find_parts`.
    """

    def __init__(
        self,
        model: nn.Module,
        is_site: Predicate,
        is_leaf: Predicate,
        arguments: Sequence[Arguments],
        probes: Probes | None,
    ):
        self.model, self.is_site = model, is_site
        self.skeleton = copy_skeleton(model, is_plain_leaf)
        self.leaf = lambda module: is_site(module) or is_leaf(module)
        self.hooked = {
            name for name, m in model.named_modules() if name and has_hooks(m) and not self.leaf(m) and not is_excluded(m)
        }
        self.seen: set[nn.Module] = set()
        self.twins = {id(module): name for name, module in model.named_modules()}
        self.is_borrowed = probes is not None  # the network that the graphs are run on
        self.probes = Probes(self._copied(), arguments) if probes is None and arguments else probes
        self.network = model if self.probes is None else self.probes.network

    def _copied(self) -> nn.Module:
        """A copy of the network to run, with those of its hooks that hold modules."""
        copied = copy_to_run(self.model).eval()
        keep_hooks(copied, hooks_with_modules(self.model))
        return copied

    def parts(self, name: str, root: nn.Module, siblings: Collection[str] = ()) -> Iterator[Part]:
        """The parts of a module: its own, and those of submodules that its graph leaves out; a module of several names has one.

        Args:
            name: qualified name of the module.
            root: the module, of the skeleton.
            siblings: names of modules that will be asked for as well.
        """
        self.seen.add(root)
        if self.is_site(root):
            parent, _, child = name.rpartition(".")
            yield Part(parent, _single_call(child), whole=not name, entry=name, constants=root)
            return
        part = self._part_of(name, root, siblings)
        if part is None:
            missing = list(root.named_children())
        else:
            yield part
            called = {root.get_submodule(str(node.target)) for node in part.graph.nodes if node.op == "call_module"}
            missing = list(_unreached(root, called, self.is_site))
        inner = {f"{name}.{child}" if name else child: m for child, m in missing if self._has_site(m) and m not in self.seen}
        for path, module in inner.items():
            if module not in self.seen:
                yield from self.parts(path, module, inner)

    def _part_of(self, name: str, root: nn.Module, siblings: Collection[str]) -> Part | None:
        """The part that begins with a module; None where it has no graph that can be relied on."""
        calls = self.probes.calls(0, name, siblings) if self.probes is not None else []
        traced = self._traced(name, root, calls)
        if not calls:
            return Part(name, traced.graph, not name, name, root) if traced is not None else None
        of_trace = Part(name, traced.graph, not name, name, root) if traced is not None else None
        is_right = of_trace is not None and self._agrees(of_trace, calls)
        if traced is not None and is_right and not any(self._has_site(module) for module in traced.failed):
            return of_trace
        recorded = self._recorded(name, calls)
        if recorded is not None:
            return recorded
        return of_trace if is_right else None

    def _traced(self, name: str, root: nn.Module, calls: list[Call]) -> TracedGraph | None:
        prefix = f"{name}." if name else ""
        inside = [hooked.removeprefix(prefix) for hooked in self.hooked if hooked.startswith(prefix)]
        hooked = {root.get_submodule(path) for path in inside}
        return trace_graph(name, root, self.leaf, hooked, _tensors_given(root, calls[0].arguments) if calls else ())

    def _recorded(self, name: str, calls: list[Call]) -> Part | None:
        """The recorded graph of a module; None where what it does can't be recorded."""
        assert self.probes is not None
        if self.is_borrowed:  # what is recorded may leave tracked numbers in the network
            self.network, self.is_borrowed = self._copied(), False
        module = self.network.get_submodule(name)
        prefix = f"{name}." if name else ""
        hooked = {self.network.get_submodule(path) for path in self.hooked}
        twins = {key: path.removeprefix(prefix) for key, path in self.twins.items() if path.startswith(prefix)}
        try:
            graph, constants = record(
                module, copied(calls[0].arguments), lambda m: self.leaf(m) or m in hooked or is_excluded(m), twins
            )
        except Exception as error:  # of any kind, from the network's own code
            log.debug("%s is not recorded: %s", name or type(module).__name__, error)
            return None
        times = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
        if any(count > 1 and self.is_site(module.get_submodule(target)) for target, count in times.items()):
            return None  # a loop that is unrolled: the module that runs in it has a graph of its own, which calls layers once
        part = Part(name, graph, not name, name, constants, recorded=True)
        others = (self.probes.calls(which, name) for which in range(1, self.probes.count))
        return part if self._agrees(part, calls) and all(self._agrees(part, other) for other in others) else None

    def _agrees(self, part: Part, calls: list[Call]) -> bool:
        """Whether the graph gives what the module gives, without the module's own hooks."""
        module = self.network.get_submodule(part.name)
        try:
            return all(is_same(_graph_output(module, part, call.arguments), call.output) for call in calls)
        except Exception as error:  # of any kind: a graph that lies may call anything with anything
            log.debug("the graph of %s does not run: %s", part.name or type(module).__name__, error)
            return False

    def _has_site(self, module: nn.Module) -> bool:
        """Whether the module is a site or has one among its submodules."""
        return any(self.is_site(m) for m in module.modules())


def _graph_output(root: nn.Module, part: Part, arguments: Arguments) -> object:
    """What the graph of a part gives, computed as calibration does it: only what the output needs."""
    run = GraphRun(root, part, [copied(arguments)], MEMORY)
    try:
        with seeded(SEED):
            (output,) = next(run.run([run.nodes[-1]]))
        return output
    finally:
        run.close()


def _tensors_given(root: nn.Module, arguments: Arguments) -> list[str]:
    """The names of arguments of a forward method that hold tensors."""
    args, kwargs = arguments
    bound = inspect.signature(root.forward).bind(*args, **kwargs)
    return [name for name, value in bound.arguments.items() if any(isinstance(t, Tensor) for t in tree_leaves(value))]


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


def _single_call(target: str) -> fx.Graph:
    """A graph that calls one module, on its one input."""
    graph = fx.Graph()
    graph.output(graph.call_module(target, (graph.placeholder("input"),)))
    return graph
