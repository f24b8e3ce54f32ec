"""How often the modules and parameters of a network are used: what is shared, hooked or read from outside stays as it is."""

from collections import Counter
from collections.abc import Callable, Sequence

from torch import fx, nn
from torch.nn.utils import parametrize, prune

from ..common.traced_networks import graph_in, with_two_graphs
from ..layers.absent_weight import TYPE_ATTRIBUTES
from .sites import is_listed
from .tracing import Part

HOOKED = "has forward hooks of its own, which would be lost"


class Usage:
    """Counts what is used more than once anywhere in a network, by object: a module may have several names.

    Args:
        model: the whole network.
        parts: its traced parts.

    Attributes:
        modules: the modules by all of their qualified names.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part]):
        self.modules = dict(model.named_modules(remove_duplicate=False))
        nodes = [(part.qualified(str(node.target)), node.op) for part in parts for node in part.graph.nodes]
        reads = [(part.qualified(str(n.target)), n) for part in parts for n in part.graph.nodes if n.op == "get_attr"]
        owned = [(self.modules.get(name.rpartition(".")[0]), node) for name, node in reads]
        self._read = {module for module, node in owned if module is not None}
        self._values_read = {module for module, node in owned if module is not None and not _asks_type(node)}
        self._calls = Counter(self.modules[name] for name, op in nodes if op == "call_module")
        self._apart = {module for network in with_two_graphs(model) for module in _apart_in_training(network)}
        self._owners = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)

    def is_owned(self, name: str) -> bool:
        """Whether the module, whatever its names, is called once, has no hooks, and no weights that are read from outside."""
        module = self.modules[name]
        once = self._calls[module] == 1 and module not in self._apart
        return once and not has_hooks(module) and not is_patched(module) and module not in self._read

    def reason_to_stay(self, name: str) -> str | None:
        """Why the module has to stay as it is, whatever its class; None where it may change."""
        module = self.modules[name]
        if self._in_ghost_module(name):
            return "already part of a Ghost module"
        if is_quantised(module):
            return "quantised"
        if derived := derivation(module):
            return derived
        if has_hooks(module):
            return HOOKED
        if is_patched(module):
            return "has a forward method of its own, which would be lost"
        if shared := self._shared_weights(name):
            return shared
        if module in self._apart:
            return "in training it is not called once, on maps that it alone reads"
        return None if self._calls[module] else "no graph calls it"

    def _shared_weights(self, name: str) -> str | None:
        """Why the weights of the module stand for more than its one call; None where they do not."""
        module = self.modules[name]
        if self._calls[module] > 1:
            whole = self._repeated_around(name)
            apart = f", as all of {whole!r} is: convert that by itself" if whole else ""
            return f"shared weights: called {self._calls[module]} times{apart}"
        if any(self._owners[id(p)] > 1 for p in module.parameters()):
            return "shared weights: the same parameters stand in more than one place"
        return "its weights are read from outside" if module in self._values_read else None

    def tells_type(self, name: str) -> bool:
        """Whether others ask for the type or the device of the module's weight, and for no values of it."""
        module = self.modules[name]
        return module in self._read and module not in self._values_read

    def _repeated_around(self, name: str) -> str | None:
        """The outermost module around a layer all of whose layers are called as often, as an encoder of two inputs is."""
        parents = [name.rsplit(".", up)[0] for up in range(name.count("."), 0, -1)]
        times = self._calls[self.modules[name]]
        return next(
            (path for path in parents if all(self._calls[m] == times for m in self.modules[path].modules() if is_listed(m))),
            None,
        )

    def _in_ghost_module(self, name: str) -> bool:
        """Whether the module is a Ghost module, ours or a network's own, or lies in one."""
        parents = (self.modules[name.rsplit(".", up)[0]] for up in range(1, name.count(".") + 1))
        return any(type(owner).__name__.startswith("GhostModule") for owner in (self.modules[name], *parents))


def _apart_in_training(network: fx.GraphModule) -> set[nn.Module]:
    """The norms and the like that a traced network, when it trains, does not call right after what they alone read."""

    def called(training: bool, only: Callable[[fx.Node], bool]) -> Counter[nn.Module]:
        nodes = graph_in(network, training).nodes
        return Counter(network.get_submodule(str(node.target)) for node in nodes if node.op == "call_module" and only(node))

    calls = called(True, lambda node: True)
    alone = called(True, lambda node: [len(source.users) for source in node.all_input_nodes] == [1])
    others = (module for module in called(False, lambda node: True) if not is_listed(module))
    return {module for module in others if not calls[module] == alone[module] == 1}


def _asks_type(node: fx.Node) -> bool:
    """Whether a node reads a weight of which no more than the type or the device is asked."""

    asked = [user.target is getattr and user.args[1] in TYPE_ATTRIBUTES for user in node.users]
    return str(node.target).rpartition(".")[2] == "weight" and all(asked)


def has_hooks(module: nn.Module) -> bool:
    """Whether forward hooks of any kind act on the module."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def is_patched(module: nn.Module) -> bool:
    """Whether the module has a forward method of its own in place of its class's."""
    return "forward" in vars(module)


def is_quantised(module: nn.Module) -> bool:
    """Whether the module is of torch's quantised kinds, or prepared to become one."""
    origin = type(module).__module__
    return ".quantized" in origin or ".qat" in origin or hasattr(module, "weight_fake_quant")


def has_derived_weight(module: nn.Module) -> bool:
    """Whether the module's weight is made from other parameters at run time."""
    return bool(derivation(module))


def derivation(module: nn.Module) -> str:
    """How the module's weight is made from other parameters at run time, and what ends that; empty where it is not."""
    if parametrize.is_parametrized(module):
        return "parametrised: torch.nn.utils.parametrize.remove_parametrizations makes its weight a plain one"
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        kind = type(hook).__name__
        if isinstance(hook, prune.BasePruningMethod):
            return "pruned: torch.nn.utils.prune.remove makes its weight a plain one"
        if "Norm" in kind:
            which = "spectral" if kind == "SpectralNorm" else "weight"
            return f"{which}-normed: torch.nn.utils.remove_{which}_norm makes its weight a plain one"
    return ""


def derived_modules(model: nn.Module) -> tuple[str, ...]:
    """The qualified names of a network's modules whose weights are made from others at run time."""
    return tuple(name for name, module in model.named_modules(remove_duplicate=False) if has_derived_weight(module))
