"""Find the sites of a model in its traced graphs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from torch import fx, nn
from torch.nn.utils import parametrize

from ..layers.convolution import Convolution, as_convolution
from ..layers.layer_classes import is_kind, lookup
from ..layers.reduced_linear import ReducedLinear
from .functions_as_modules import activation_of_function
from .roles import roles_of
from .sites import DEPTHWISE, Site, is_listed
from .tracing import Part, trace


def find_sites(model: nn.Module) -> list[Site]:
    """Every convolution and fully connected layer of ``model``, in execution order, with what follows it.

    Sites that can't be converted carry the reason. Nothing is left out: a class that looks like a convolution and
    isn't known is listed as well.
    """
    parts = trace(model, is_listed, lambda module: lookup(module) is not None)
    search = _Search(model, parts)
    sites = {site.name: site for part in parts for site in search.sites(part)}
    return search.mark_first(list(sites.values()))


class _Search:
    """Reads sites off the graphs; counts what is used more than once anywhere in the model.

    Args:
        model: the whole model.
        parts: its traced parts.
    """

    def __init__(self, model: nn.Module, parts: list[Part]):
        self.parts = parts
        self.modules = dict(model.named_modules(remove_duplicate=False))
        nodes = [(part.qualified(str(node.target)), node.op) for part in parts for node in part.graph.nodes]
        self.calls = Counter(name for name, op in nodes if op == "call_module")
        self.read = {name.rpartition(".")[0] for name, op in nodes if op == "get_attr"}
        self.owners = Counter(id(p) for m in self.modules.values() for p in m._parameters.values() if p is not None)
        self.names = Counter(id(module) for module in self.modules.values())

    def sites(self, part: Part) -> Iterator[Site]:
        """The sites of one part, in the order in which they are called."""
        roles = roles_of(part, self.modules)
        for node in part.graph.nodes:
            if node.op != "call_module":
                continue
            name = part.qualified(str(node.target))
            module = self.modules[name]
            if not is_listed(module) or isinstance(module, ReducedLinear):
                continue
            kind: Literal["conv", "linear"] = "linear" if type(module) is nn.Linear else "conv"
            known_roles = roles[node] - self._uncertain_roles(part, kind)
            site = Site(name, module, kind, roles=known_roles, reason=self._blocked(name, module))
            may_convert = kind == "conv" and site.reason in (None, DEPTHWISE)
            yield self._with_followers(site, part, node) if may_convert else site

    def _uncertain_roles(self, part: Part, kind: Literal["conv", "linear"]) -> set[str]:
        """Roles that the graph of a part alone can't tell: what leaves it may be anything, and so may what enters it."""
        if part.whole:
            return set()
        return ({"last"} if kind == "conv" else set()) | ({"first"} if any(other.whole for other in self.parts) else set())

    def _blocked(self, name: str, module: nn.Module) -> str | None:
        """Why no Ghost module can stand in for this layer, whatever the settings."""
        parents = (self.modules[name.rsplit(".", up)[0]] for up in range(1, name.count(".") + 1))
        if any(type(owner).__name__.startswith("GhostModule") for owner in (module, *parents)):
            return "already part of a Ghost module"
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return "transposed convolution"
        origin = type(module).__module__
        if ".quantized" in origin or ".qat" in origin or hasattr(module, "weight_fake_quant"):
            return "quantised"
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if parametrize.is_parametrized(module) or any("Norm" in type(hook).__name__ for hook in hooks):
            return "weight-normed or parametrised: its weight is made from others at run time"
        if type(module) is not nn.Linear and not is_kind(module, "conv"):
            return f"unknown class {type(module).__name__}: ghostify.register_pattern teaches it"
        if hooks:
            return "has forward hooks of its own, which would be lost"
        if self.calls[name] > 1:
            return f"shared weights: called {self.calls[name]} times"
        if any(self.owners[id(p)] > 1 for p in module.parameters()):
            return "shared weights: the same parameters stand in more than one place"
        if name in self.read:
            return "its weights are read from outside"
        return DEPTHWISE if is_kind(module, "conv") and _is_depthwise(as_convolution(module)) else None

    def _with_followers(self, site: Site, part: Part, node: fx.Node) -> Site:
        """Add the norm and the activation that follow, where they can be taken into the Ghost module."""
        follower = _only_user(node, part, self.modules)
        name, module = self._called(follower, part)
        if module is not None and is_kind(module, "norm") and self._owned(name, module):
            channels = site.conv.out_channels
            if getattr(module, "num_features", channels) == channels:
                site = replace(site, norm_name=name, norm=module)
                if _includes_activation(module):
                    return site
                follower = _only_user(follower, part, self.modules) if follower else None
                name, module = self._called(follower, part)
        if module is not None and is_kind(module, "activation"):
            owned = self._owned(name, module)
            return replace(site, act=module, act_name=name if owned else None, shared_act=None if owned else name)
        return replace(site, act=activation_of_function(follower)) if follower is not None else site

    def _called(self, node: fx.Node | None, part: Part) -> tuple[str, nn.Module | None]:
        """The qualified name of the module that a node calls, and the module."""
        if node is None or node.op != "call_module":
            return "", None
        name = part.qualified(str(node.target))
        return name, self.modules[name]

    def _owned(self, name: str, module: nn.Module) -> bool:
        """Whether the module is called from one place, has one name, no hooks, and no weights that are read from outside."""
        hooked = bool(module._forward_hooks or module._forward_pre_hooks)
        return self.calls[name] == 1 and self.names[id(module)] == 1 and not hooked and name not in self.read

    def mark_first(self, sites: list[Site]) -> list[Site]:
        """Where only parts trace, "sees no convolution before it" holds for many: keep those shaped like the very first."""
        if any(part.whole for part in self.parts):
            return sites
        order = {name: position for position, name in enumerate(self.modules)}
        convs = [s for s in sites if "first" in s.roles and s.kind == "conv" and hasattr(s.module, "in_channels")]
        first = min(convs, key=lambda site: order[site.name], default=None)
        if first is None:
            return sites
        in_channels = first.conv.in_channels
        later = {site.name for site in sites if getattr(site.module, "in_channels", None) != in_channels}
        return [replace(site, roles=site.roles - {"first"}) if site.name in later else site for site in sites]


def _is_depthwise(conv: Convolution) -> bool:
    return conv.groups > 1 and conv.groups in (conv.in_channels, conv.out_channels)


def _only_user(node: fx.Node, part: Part, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The single user of a node's value, looking through Identity modules; None where there are several."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_module" or type(modules[part.qualified(str(node.target))]) is not nn.Identity:
            return node
    return None


def _includes_activation(norm: nn.Module) -> bool:
    """Whether a norm ends with an activation: timm's norms that do keep it as ``act``."""
    act = getattr(norm, "act", None)
    return isinstance(act, nn.Module) and not isinstance(act, nn.Identity)
