"""Put the new layers into the model: a copy that never holds the dense weights, or the model itself."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import fx, nn

from ..common.copying import copy_swapped
from ..errors import ArgumentError, UnsupportedModelError
from ..graph.sites import Site
from ..layers.reduced_linear import ReducedLinear
from .planned import PlannedSite
from .warm_start import make_ghost

M = TypeVar("M", bound=nn.Module)


def make_swaps(plan: Sequence[PlannedSite], init: str = "warm", seed: int = 0) -> dict[str, nn.Module]:
    """Qualified name -> new layer, for every module that a conversion replaces. Changes nothing.

    Raises:
        UnsupportedModelError: a layer can't be split by output channels; the message names the site.
    """
    swaps: dict[str, nn.Module] = {}
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
            raise UnsupportedModelError(
                f"site {site.name!r} ({site.layers}) can't be converted: {error}; ratios={{{site.name!r}: None}} keeps it"
            ) from error
        for name, layer in ((site.norm_name, site.norm), (site.act_name, site.act)):
            if name is not None and layer is not None:
                swaps[name] = nn.Identity().train(layer.training)
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
    """``model`` with the new layers in place; a copy unless ``inplace``.

    Args:
        model: any network.
        swaps: qualified name -> new layer.
        inplace: whether the model itself is changed.
    """
    if inplace:
        for name, layer in swaps.items():
            put(model, name, layer)
    else:
        model = copy_swapped(model, {model.get_submodule(name): layer for name, layer in swaps.items()})
    if isinstance(model, fx.GraphModule):
        _drop_identities(model, {name for name, layer in swaps.items() if isinstance(layer, nn.Identity)})
    return model


def put(model: nn.Module, name: str, value: nn.Module | nn.Parameter) -> None:
    """Put a module or a parameter in the place of what stands under a qualified name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, value)


def _drop_identities(model: fx.GraphModule, names: set[str]) -> None:
    """Take the calls of these modules, which are identities, out of a traced model's graph."""
    for node in list(model.graph.nodes):
        if node.op == "call_module" and node.target in names:
            node.replace_all_uses_with(node.args[0])
            model.graph.erase_node(node)
            model.delete_submodule(str(node.target))
    model.recompile()
