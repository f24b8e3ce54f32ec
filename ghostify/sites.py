"""Sites: the places in a model where a Ghost module can stand, found in traced graphs."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize

from .modules import GhostModule, ReducedLinear
from .patterns import is_kind, lookup
from .tracing import Part, trace

DEPTHWISE = "depthwise convolution"


@dataclass(frozen=True)
class Site:
    """A convolution (or fully connected layer), the norm after it if any, the activation after that if any.

    ``norm`` and ``act`` are named only where they belong to this site alone. ``act`` without ``act_name`` is a copy of an
    activation that stays where it is (a function, or a module with other users): intrinsic maps pass through it on their
    way into the cheap operation, and the whole output passes through the original afterwards.
    """

    name: str
    module: Any  # of any registered class
    kind: Literal["conv", "linear"] = "conv"
    norm_name: str | None = None
    norm: nn.Module | None = None
    act_name: str | None = None
    act: nn.Module | None = None
    shared_act: str | None = None  # where ``act`` is a copy of a module: that module's name
    roles: frozenset[str] = frozenset()
    reason: str | None = None  # why the site can't be converted at all

    @property
    def layers(self) -> str:
        """The pattern in words, such as ``Conv2d-BatchNorm2d-ReLU``."""
        return "-".join(type(m).__name__ for m in (self.module, self.norm, self.act) if m is not None)


def find_sites(model: nn.Module) -> list[Site]:
    """Every convolution and fully connected layer of ``model``, in execution order, with what follows it.

    Sites that can't be converted carry the reason. Nothing is left out: a class that looks like a convolution and
    isn't known is listed as well.
    """
    parts = trace(model, is_listed, lambda m: lookup(m) is not None)
    search = _Search(model, parts)
    sites = {site.name: site for part in parts for site in search.sites(part)}
    return search.mark_first(list(sites.values()))


def is_listed(module: nn.Module) -> bool:
    return (
        isinstance(module, (GhostModule, ReducedLinear, nn.modules.conv._ConvNd)) or type(module) is nn.Linear
        or is_kind(module, "conv") or _looks_like_conv(module)
    )  # fmt: skip


def _looks_like_conv(module: nn.Module) -> bool:
    """A class of unknown make with Conv in its name, weights of its own and no convolution inside."""
    return (
        "conv" in type(module).__name__.lower()
        and next(module.children(), None) is None
        and (bool(module._parameters) or "quantized" in type(module).__module__)
    )


# activation functions, as the module of the same effect; further arguments of the call go to its constructor by name
_FUNCTIONS: dict[Any, type[nn.Module]] = {
    **{F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, F.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU},
    **{F.relu6: nn.ReLU6, F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU, F.gelu: nn.GELU, F.silu: nn.SiLU, F.mish: nn.Mish},
    **{F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid, F.hardtanh: nn.Hardtanh, F.softplus: nn.Softplus},
    **{F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, "sigmoid_": nn.Sigmoid},
    **{F.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh, "tanh_": nn.Tanh},
}


@dataclass
class _Search:
    """Reads sites off the graphs; knows what is used more than once anywhere in the model."""

    model: nn.Module
    parts: list[Part]
    modules: dict[str, nn.Module] = field(init=False)
    calls: Counter[str] = field(init=False)
    read: set[str] = field(init=False)
    owners: Counter[int] = field(init=False)
    names: Counter[int] = field(init=False)

    def __post_init__(self) -> None:
        self.modules = dict(self.model.named_modules(remove_duplicate=False))
        nodes = [(part.qualified(str(node.target)), node.op) for part in self.parts for node in part.graph.nodes]
        self.calls = Counter(name for name, op in nodes if op == "call_module")
        self.read = {name.rpartition(".")[0] for name, op in nodes if op == "get_attr"}
        self.owners = Counter(id(p) for m in self.modules.values() for p in m._parameters.values() if p is not None)
        self.names = Counter(id(m) for m in self.modules.values())

    def sites(self, part: Part) -> Iterator[Site]:
        roles = _roles(part, self.modules)
        inner = not part.whole and any(p.whole for p in self.parts)  # of a model that traces as a whole
        for node in part.graph.nodes:
            if node.op != "call_module":
                continue
            name = part.qualified(str(node.target))
            module = self.modules[name]
            if is_listed(module) and not isinstance(module, ReducedLinear):
                site = Site(name, module, roles=roles[node] - ({"first"} if inner else set()))
                site = replace(site, reason=self._blocked(name, module))
                if type(module) is nn.Linear:
                    yield replace(site, kind="linear")
                else:
                    if not part.whole:  # what leaves a part may be anything
                        site = replace(site, roles=site.roles - {"last"})
                    yield site if site.reason not in (None, DEPTHWISE) else self._with_followers(site, part, node)

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
        conv: Any = module
        if is_kind(conv, "conv") and conv.groups > 1 and conv.groups in (conv.in_channels, conv.out_channels):
            return DEPTHWISE
        return None

    def _with_followers(self, site: Site, part: Part, node: fx.Node) -> Site:
        """Add the norm and the activation that follow, where they can be taken into the Ghost module."""
        follower = _only_user(node, part, self.modules)
        name, module = self._called(follower, part)
        if module is not None and is_kind(module, "norm") and self._owned(name, module):
            channels = site.module.out_channels
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
        if node is None or node.op != "call_module":
            return "", None
        name = part.qualified(str(node.target))
        return name, self.modules[name]

    def _owned(self, name: str, module: nn.Module) -> bool:
        """The module is called from this one place, has no second name, and nobody listens to it."""
        hooked = bool(module._forward_hooks or module._forward_pre_hooks)
        return self.calls[name] == 1 and self.names[id(module)] == 1 and not hooked and name not in self.read

    def mark_first(self, sites: list[Site]) -> list[Site]:
        """Where only parts trace, "sees no convolution before it" holds for many: keep those shaped like the very first."""
        if any(part.whole for part in self.parts):
            return sites
        order = {name: position for position, name in enumerate(self.modules)}
        convs = [s for s in sites if "first" in s.roles and s.kind == "conv" and hasattr(s.module, "in_channels")]
        first = min(convs, key=lambda s: order[s.name], default=None)
        return [
            s if first is None or getattr(s.module, "in_channels", None) == first.module.in_channels
            else replace(s, roles=s.roles - {"first"})
            for s in sites
        ]  # fmt: skip


def _only_user(node: fx.Node, part: Part, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The single user of a node's value, looking through Identity modules; None where there are several."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op != "call_module" or type(modules[part.qualified(str(node.target))]) is not nn.Identity:
            return node
    return None


def _includes_activation(norm: nn.Module) -> bool:
    """timm's norms with the activation built in keep it as ``act``."""
    act = getattr(norm, "act", None)
    return isinstance(act, nn.Module) and not isinstance(act, nn.Identity)


def is_activation_function(node: fx.Node) -> bool:
    """Whether the node calls an activation, as a function or a method."""
    return node.op in ("call_function", "call_method") and node.target in _FUNCTIONS


def activation_of_function(node: fx.Node) -> nn.Module | None:
    cls = _FUNCTIONS.get(node.target) if node.op in ("call_function", "call_method") else None
    if cls is None:
        return None
    names = [name for name in getattr(cls, "__constants__", ()) if name != "inplace"]
    arguments = dict(zip(names, node.args[1:], strict=False))
    arguments.update((k, v) for k, v in node.kwargs.items() if k in names)
    if any(isinstance(value, fx.Node) for value in arguments.values()):
        return None  # computed by the network itself: no module can stand for it
    return cls(**arguments)


def describe_function(act: nn.Module) -> dict[str, Any]:
    """The module that :func:`activation_of_function` made, as plain data."""
    settings = {name: getattr(act, name) for name in getattr(act, "__constants__", ()) if hasattr(act, name)}
    return {"class": type(act).__name__, **settings}


def function_described(told: Mapping[str, Any]) -> nn.Module:
    """The module that :func:`describe_function` described.

    Raises:
        KeyError, TypeError: it describes none that there is.
    """
    classes = {cls.__name__: cls for cls in _FUNCTIONS.values()}
    settings = {name: value for name, value in told.items() if name != "class"}
    return classes[told["class"]](**settings)


_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool2d)
_POOL_FUNCTIONS = {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool2d}


def _roles(part: Part, modules: dict[str, nn.Module]) -> dict[fx.Node, frozenset[str]]:
    """What is known of each node: ``first`` (no convolution before it), ``pooled`` (works on 1x1 maps), ``last``."""
    after_conv: set[fx.Node] = set()
    pooled: set[fx.Node] = set()
    found: dict[fx.Node, frozenset[str]] = {}
    last = _last_weights(part, modules)
    for node in part.graph.nodes:
        module = modules[part.qualified(str(node.target))] if node.op == "call_module" else None
        seen = any(source in after_conv for source in node.all_input_nodes)
        on_pool = bool(node.all_input_nodes) and all(source in pooled for source in node.all_input_nodes)
        roles = {"first": not seen, "pooled": on_pool, "last": node in last}
        found[node] = frozenset(role for role, holds in roles.items() if holds)
        if seen or (module is not None and _holds_conv(module)):
            after_conv.add(node)
        if _is_global_pool(node, module) or (on_pool and _keeps_size(node, module)):
            pooled.add(node)
    return found


def _holds_conv(module: nn.Module) -> bool:
    return any(is_kind(m, "conv") or isinstance(m, GhostModule) for m in module.modules())


def _is_global_pool(node: fx.Node, module: nn.Module | None) -> bool:
    if isinstance(module, _POOLS):
        size: Any = module.output_size
    elif node.op == "call_function" and node.target in _POOL_FUNCTIONS:
        size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    elif node.target in (torch.mean, "mean"):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim")
        return keep is True and isinstance(dims, (tuple, list)) and {*dims} in ({2, 3}, {-1, -2}, {2, 3, 4})
    else:
        return False
    return all(s == 1 for s in (size if isinstance(size, (tuple, list)) else (size,)))


def _keeps_size(node: fx.Node, module: nn.Module | None) -> bool:
    """On 1x1 maps any convolution, norm, activation or dropout gives 1x1 maps."""
    if module is not None:
        return isinstance(module, (nn.Identity, nn.Dropout, GhostModule)) or lookup(module) is not None
    return node.target in _FUNCTIONS


_SQUASHING = (nn.Sigmoid, nn.Tanh)  # what makes probabilities or pixels of scores


def _last_weights(part: Part, modules: dict[str, nn.Module]) -> set[fx.Node]:
    """Convolutions and linear layers whose values reach the output, and no other layer, norm or activation; a sigmoid or tanh
    there is a part of the output."""
    found: set[fx.Node] = set()
    only_output: set[fx.Node] = set()
    for node in reversed(part.graph.nodes):
        module = modules[part.qualified(str(node.target))] if node.op == "call_module" else None
        if node.op != "output" and not (node.users and only_output.issuperset(node.users)):
            continue
        if module is None:
            passes = _FUNCTIONS.get(node.target, nn.Sigmoid) in _SQUASHING
        elif is_listed(module):
            found.add(node)
            passes = False
        else:
            passes = isinstance(module, _SQUASHING) or not (lookup(module) or next(module.parameters(), None) is not None)
        if passes:
            only_output.add(node)
    return found
