"""Put the new layers into the model: a copy that never holds the dense weights, or the model itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import fx, nn

from ..common.copying import become, copy_layer, copy_swapped
from ..common.traced_networks import graphs_of
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.sites import Site
from ..layers.reduced_linear import ReducedLinear
from .planned import PlannedSite
from .warm_start import make_ghost

M = TypeVar("M", bound=nn.Module)


class RefusedSitesError(UnsupportedModelError):
    """Layers of some sites can't be split by output channels.

    Attributes:
        reasons: by the names of the sites, why not.
    """

    def __init__(self, message: str, reasons: dict[str, str]):
        super().__init__(message)
        self.reasons = reasons


def make_swaps(plan: Sequence[PlannedSite], init: str = "warm", seed: int = 0) -> dict[str, nn.Module]:
    """Qualified name -> new layer, for every module that a conversion replaces. Changes nothing.

    Raises:
        RefusedSitesError: layers can't be split by output channels; the message names the first of their sites.
    """
    swaps: dict[str, nn.Module] = {}
    refused: dict[str, str] = {}
    for position, planned in enumerate(plan):
        if planned.ratio is None:
            continue
        site = planned.site
        try:
            if isinstance(site.module, nn.Linear):
                swaps[site.name] = ReducedLinear.from_linear(site.module, rank=planned.intrinsic)
            else:
                swaps[site.name] = make_ghost(planned, init=init, seed=seed + position)
        except ArgumentError as error:
            refused[site.name] = f"{site.layers} can't be converted: {error}"
            continue
        if site.tells_type:
            vars(swaps[site.name])["tells_type"] = True
        for name, layer in ((site.norm_name, site.norm), (site.act_name, site.act)):
            if name is not None and layer is not None:
                swaps[name] = nn.Identity().train(layer.training)
    if refused:
        name, reason = next(iter(refused.items()))
        raise RefusedSitesError(f"site {name!r}: {reason}; ratios={{{name!r}: None}} keeps it", refused)
    return swaps


def rebased(plan: Sequence[PlannedSite], layers: Mapping[str, nn.Module]) -> list[PlannedSite]:
    """The plan of sites for a network in which other layers stand under some names: a Ghost module is made of those.

    Args:
        plan: sites of the network as it was.
        layers: qualified name -> new layer.
    """

    def now(name: str | None, module: nn.Module | None) -> nn.Module | None:
        return module if name is None else layers.get(name, module)

    def rebase(site: Site) -> Site:
        module = layers.get(site.name, site.module)
        return replace(site, module=module, norm=now(site.norm_name, site.norm), act=now(site.act_name, site.act))

    return [replace(planned, site=rebase(planned.site)) for planned in plan]


def swap(model: M, swaps: dict[str, nn.Module], inplace: bool) -> M:
    """``model`` with the new layers in all places where the old ones stand, under whatever names; a copy unless ``inplace``.

    Args:
        model: any network.
        swaps: qualified name -> new layer.
        inplace: whether the model itself is changed.
    """
    layers = {model.get_submodule(name): layer for name, layer in swaps.items()}
    if inplace:
        _keep_apart(layers)
        for old, new in layers.items():
            become(old, new)
    else:
        model = copy_swapped(model, layers)
    if isinstance(model, fx.GraphModule):
        _drop_identities(model, {model.get_submodule(name) for name, layer in swaps.items() if isinstance(layer, nn.Identity)})
    return model


def put(model: nn.Module, name: str, value: nn.Module | nn.Parameter) -> None:
    """Put a module or a parameter in the place of what stands under a qualified name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, value)


def _keep_apart(layers: Mapping[nn.Module, nn.Module]) -> None:
    """Give new layers that hold an old one, as a registered ``narrow`` may return it, a twin of it that stays what it was."""
    for parent in (module for new in layers.values() for module in new.modules()):
        for name, child in parent.named_children():
            if child in layers:
                setattr(parent, name, copy_layer(child))


def _drop_identities(model: fx.GraphModule, identities: set[nn.Module]) -> None:
    """Take the calls of these modules, which are identities, out of a traced model's graph."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for graph in graphs_of(model):
        for node in list(graph.nodes):
            if node.op == "call_module" and modules[str(node.target)] in identities:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
                model.delete_submodule(str(node.target))
    model.recompile()
