"""Find the sites of a model in its traced graphs."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx, nn

from ..common.calls import Arguments
from ..common.copying import copy_to_run
from ..common.traced_networks import set_mode
from ..inputs.examples import quiet, running_input
from ..layers.convolution import Convolution, as_convolution
from ..layers.layer_classes import is_kind, lookup
from ..layers.reduced_linear import ReducedLinear
from .functions_as_modules import activation_of_function
from .parts import find_parts
from .probes import Probes
from .recording import record
from .roles import roles_of
from .sites import DEPTHWISE, TRANSPOSED, Site, is_listed
from .tracing import Part, is_excluded, trace_in_training
from .usage import Usage

log = logging.getLogger(__name__)


def trace_layers(model: nn.Module, *arguments: Arguments | None, probes: Probes | None = None) -> list[Part]:
    """The parts of ``model`` that have graphs; every layer that may be a site is called by one of them.

    Args:
        model: any network.
        arguments: of a forward pass, by which graphs are checked, and recorded where tracing fails or lies; see
            :func:`ghostify.graph.parts.find_parts`. Further ones have images of other sizes, for which graphs must be right,
            too. None, or nothing, where none are known.
        probes: of a network that gives the same, with these arguments, where others need them, too.
    """
    known = [one for one in arguments if one is not None]
    return find_parts(model, is_listed, lambda module: lookup(module) is not None, known, probes)


def trace_layers_in_training(model: nn.Module) -> fx.Graph | None:
    """The graph of ``model`` in training mode, recorded where it does not trace as a whole; None where it can't be either."""
    graph = trace_in_training(model, _is_single)
    return _recorded_in_training(model) if graph is None else graph


def _recorded_in_training(model: nn.Module) -> fx.Graph | None:
    """What a copy of ``model`` calls in training mode on an input that it is found to take."""
    arguments = running_input(model)
    if arguments is None:
        return None
    copied = copy_to_run(model)
    for module in copied.modules():
        set_mode(module, training=True)
    try:
        with quiet():
            return record(copied, arguments, lambda module: _is_single(module) or is_excluded(module), {})[0]
    except Exception as error:  # of any kind, from the network's own code
        log.debug("%s is not recorded in training mode: %s", type(model).__name__, error)
        return None


def _is_single(module: nn.Module) -> bool:
    return is_listed(module) or lookup(module) is not None


def find_sites(model: nn.Module, parts: Sequence[Part] | None = None) -> list[Site]:
    """Every convolution and fully connected layer of ``model``, in execution order, with what follows it.

    Sites that can't be converted carry the reason. Nothing is left out: a class that looks like a convolution and
    isn't known is listed as well.

    Args:
        model: any network.
        parts: of the network by :func:`trace_layers`; None to trace it.
    """
    parts = trace_layers(model) if parts is None else parts
    search = _Search(model, parts)
    sites = {site.name: site for part in parts for site in search.sites(part)}
    return search.mark_first(list(sites.values()))


_ROLES = frozenset({"first", "pooled", "last"})


@dataclass(frozen=True)
class _Place:
    """Where a part of a network, or a module, stands in the network.

    Attributes:
        roles: those that what lies in it may have in the network.
        unordered: the outermost module around it in which nobody knows what comes first or last; None where that is known.
    """

    roles: frozenset[str]
    unordered: str | None = None


class _Search:
    """Reads sites off the graphs.

    Args:
        model: the whole model.
        parts: its traced parts.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part]):
        self.parts = parts
        self.usage = Usage(model, parts)
        self.modules = self.usage.modules
        self.opaque: dict[str, _Place] = {}  # of modules that graphs call without showing their inside
        self.unordered: dict[str, str] = {}  # by site, as of its place

    def sites(self, part: Part) -> Iterator[Site]:
        """The sites of one part, in the order in which they are called."""
        place = self._place(part)
        roles = {node: found & place.roles for node, found in roles_of(part, self.modules).items()}
        for node in part.graph.nodes:
            if node.op != "call_module":
                continue
            name = part.qualified(str(node.target))
            module = self.modules[name]
            if not is_listed(module):
                others = self.opaque[name].roles if name in self.opaque else roles[node]
                self.opaque[name] = _Place(roles[node] & others, place.unordered)
            if not is_listed(module) or isinstance(module, ReducedLinear):
                continue
            kind: Literal["conv", "linear"] = "linear" if type(module) is nn.Linear else "conv"
            known = roles[node]
            if place.unordered is not None:
                self.unordered[name] = place.unordered
                known -= {"last"} if kind == "conv" else set()
            site = Site(name, module, kind, roles=known, reason=self._blocked(name, module))
            site = replace(site, tells_type=self.usage.tells_type(name))
            may_change = kind == "conv" and site.reason in (None, DEPTHWISE, TRANSPOSED)
            yield self._with_followers(site, part, node) if may_change else site

    def _place(self, part: Part) -> _Place:
        """The place of a part in the network: what is first in a module that comes first is first."""
        if part.whole:
            return _Place(_ROLES)
        around = next((path for path in _with_parents(part.entry) if path in self.opaque), None)
        if around is not None:
            outside = self.opaque[around]
            is_known = outside.unordered is not None or around == part.entry
            return _Place(outside.roles | {"pooled"}, outside.unordered if is_known else around)
        if any(other.whole for other in self.parts):  # whose graph does not call this part, as heads that help training
            return _Place(_ROLES - {"first"}, part.entry)
        return _Place(_ROLES, "")

    def _blocked(self, name: str, module: nn.Module) -> str | None:
        """Why no Ghost module can stand in for this layer, whatever the settings."""
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            return TRANSPOSED
        if reason := self.usage.reason_to_stay(name):
            return reason
        if type(module) is not nn.Linear and not is_kind(module, "conv"):
            return f"unknown class {type(module).__name__}: ghostify.register_pattern teaches it"
        return DEPTHWISE if is_kind(module, "conv") and _is_depthwise(as_convolution(module)) else None

    def _with_followers(self, site: Site, part: Part, node: fx.Node) -> Site:
        """Add the norm and the activation that follow, where they can be taken into the Ghost module."""
        follower = _only_user(node, part, self.modules)
        name, module = self._called(follower, part)
        if module is not None and is_kind(module, "norm") and self.usage.is_owned(name):
            channels = site.conv.out_channels
            if getattr(module, "num_features", channels) == channels:
                site = replace(site, norm_name=name, norm=module)
                if _includes_activation(module):
                    return site
                follower = _only_user(follower, part, self.modules) if follower else None
                name, module = self._called(follower, part)
        if module is not None and is_kind(module, "activation"):
            owned = self.usage.is_owned(name)
            return replace(site, act=module, act_name=name if owned else None, shared_act=None if owned else name)
        return replace(site, act=activation_of_function(follower)) if follower is not None else site

    def _called(self, node: fx.Node | None, part: Part) -> tuple[str, nn.Module | None]:
        """The qualified name of the module that a node calls, and the module."""
        if node is None or node.op != "call_module":
            return "", None
        name = part.qualified(str(node.target))
        return name, self.modules[name]

    def mark_first(self, sites: list[Site]) -> list[Site]:
        """In a module of which only parts have graphs "sees no convolution before it" holds for many: keep those shaped like
        the very first."""
        order = {name: position for position, name in enumerate(self.modules)}
        in_channels: dict[str, int] = {}
        for site in sorted(sites, key=lambda site: order[site.name]):
            if site.name in self.unordered and self._may_be_first(site):
                in_channels.setdefault(self.unordered[site.name], site.conv.in_channels)
        return [
            replace(site, roles=site.roles - {"first"})
            if site.name in self.unordered
            and getattr(site.module, "in_channels", None) != in_channels.get(self.unordered[site.name])
            else site
            for site in sites
        ]

    def _may_be_first(self, site: Site) -> bool:
        return "first" in site.roles and site.kind == "conv" and hasattr(site.module, "in_channels")


def _with_parents(name: str) -> Iterator[str]:
    """A qualified name and those of the modules around it, from inside to outside."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _is_depthwise(conv: Convolution) -> bool:
    return conv.groups > 1 and conv.groups in (conv.in_channels, conv.out_channels)


def _only_user(node: fx.Node, part: Part, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The single user of a node's value, looking through Identity modules; None where there are several."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        module = modules[part.qualified(str(node.target))] if node.op == "call_module" else None
        if type(module) is not nn.Identity or "forward" in vars(module):  # of the class, and of the instance
            return node
    return None


def _includes_activation(norm: nn.Module) -> bool:
    """Whether a norm ends with an activation: timm's norms that do keep it as ``act``."""
    act = getattr(norm, "act", None)
    return isinstance(act, nn.Module) and not isinstance(act, nn.Identity)
