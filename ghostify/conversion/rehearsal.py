"""The dress rehearsal: before anything is converted, the network runs with dense layers in the new layers' places.

What was traced tells where a new layer takes in the norm and the activation behind a convolution, and which layers make and
read some maps. Where that is not the whole truth, since code walks over containers, looks at classes or takes maps from
between, the network then computes something else; the sites and spans that do it are found by halving.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..common.calls import Arguments, in_double
from ..common.checks import check_finite
from ..common.copying import on_meta
from ..common.random_state import undisturbed
from ..common.text import first_line
from ..errors import GhostifyError, UnsupportedModelError
from ..graph.probes import Probes
from ..graph.sites import Site
from ..graph.usage import has_hooks
from ..inputs.examples import as_arguments, guessed_inputs
from ..inputs.images import ImageData, as_calls
from ..surgery.narrowing import layers_around
from ..surgery.planned import PlannedSite, PlannedSpan
from .dense_layers import DroppedMaps, dense_layers
from .network_plan import NetworkPlan
from .rehearsal_stage import Performance, Stage

ELSE = "with another layer in its place the network computes something else"

NARROWER = "without some of its maps the network computes something else"

NEVER = "the network does not run what stands in its place"

IMAGES = 2

_Planned = PlannedSite | PlannedSpan


@dataclass
class Findings:
    """What a rehearsal tells of a plan.

    Attributes:
        reasons: by the names of sites, why they have to stay dense.
        span_reasons: by the names of spans, why all their maps have to stay.
        sites: by name, sites whose Ghost module has to leave the norm, or the activation alone, where it is.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    span_reasons: dict[str, str] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)

    @property
    def nothing(self) -> bool:
        """Whether the plan can stay as it is."""
        return not (self.reasons or self.span_reasons or self.sites)


class Rehearsal:
    """Runs a network with what plans would change in it.

    Args:
        network: the original, which is afterwards as it was.
        inplace: whether the network itself will be changed, so that it, and no copy, runs.
        example: an input as a user gives it; None without one.
        images: images as a user gives them, of which the first are taken where there is no example; None without.

    Attributes:
        arguments: what the network runs on; None where nothing is known.
        probes: of a copy of the network with its own values, on the like of these; None where the network itself runs.
        verdict: for reports: on what the plan was verified, or why it was not.

    Raises:
        UnsupportedModelError: a copy of the network uses layers, tensors or attributes of the network itself.
    """

    def __init__(self, network: nn.Module, inplace: bool, example: object = None, images: ImageData | None = None):
        self.arguments: Arguments | None = None
        self.probes: Probes | None = None
        self._own: tuple[Arguments, Performance] | None = None  # of the network with its own values
        self.verdict = "not verified: the network is on the meta device, where it has no values"
        self._plain: Performance | None = None
        self._error = ""  # of the first input
        if on_meta(network):
            return
        self.verdict = "not verified: no input is known that the network runs on"
        for hooks in (False, True) if any(has_hooks(module) for module in network.modules()) else (False,):
            self._stage = Stage(network, inplace, hooks)
            self._try(_inputs(network, example, images))
            if self._plain is not None:
                break
        if self._plain is None and example is not None:
            self.verdict = f"not verified: the network does not run on its example_input: {self._error}"
        if self._plain is not None and self.arguments is not None:
            self._check(self._plain)
            if not (inplace or hooks):
                self.probes = Probes(self._stage.network, [self.arguments], self._run_own)

    def _run_own(self, arguments: Arguments) -> Performance:
        """What the network gives with its own values; the first is remembered."""
        performance = self._stage.run(arguments, {})
        self._own = self._own or (arguments, performance)
        return performance

    def _try(self, inputs: Iterable[Arguments]) -> None:
        """Take the first input on which the network runs."""
        for arguments in inputs:
            try:
                with self._stage.random_scales():
                    self._plain = self._stage.run(arguments, {}, is_first=True)
                    missed = self._stage.misses(arguments, self._plain)
            except Exception as error:  # code of any kind runs here
                self._error = self._error or first_line(error)
                missed = self._stage.misses(arguments, None)
            else:
                self.arguments = arguments
            if missed is not None:
                raise _held(missed)
            if self.arguments is not None:
                return

    def _check(self, plain: Performance) -> None:
        """Know whether the output of the network alone tells anything.

        Raises:
            ArgumentError: weights of the network are not finite, of which its outputs come out so.
            UnsupportedModelError: a copy of the network uses layers, tensors or attributes of the network itself.
        """
        if plain.intruders:
            raise _held(plain.intruders[0])
        assert self.arguments is not None
        if not plain.is_finite:
            self._stage.varied = False
            plain = self._plain = self._stage.run(self.arguments, {})
        if not any(tensor.numel() for tensor in plain.outputs) and not plain.layers:
            self._plain, self.verdict = None, "not verified: the network gives no tensors"
        elif not plain.is_finite:
            check_finite("model", self._stage.original)
            self._plain, self.verdict = None, "not verified: the outputs of the network are not finite"
        else:
            self.verdict = f"verified on {_shapes(self.arguments)}"

    def findings(self, plan: NetworkPlan) -> Findings:
        """What has to change in a plan.

        Raises:
            ArgumentError: weights of the network are not finite, of which its outputs come out so.
        """
        if self._plain is None or self.arguments is None or not plan.converts:
            return Findings()
        search = _Search(self._stage, plan)
        with self._stage.random_scales():
            found = search.findings(self.arguments, self._plain, self._give_up)
        if not found.nothing or self._plain is None or not self._stage.varied:
            return found
        if self._own is None or not self._own[1].is_finite:
            self._own = self.arguments, self._stage.run(self.arguments, {})
        arguments, own = self._own  # random scales may hide what these show
        if not own.is_finite:
            check_finite("model", self._stage.original)
            return found
        return search.findings(arguments, own, self._give_up)

    def _give_up(self, verdict: str) -> None:
        self._plain, self.verdict = None, verdict


class _Search:
    """Finds the sites and spans of a plan that change what the network computes.

    Args:
        stage: where the network runs.
        plan: what would be converted.
    """

    def __init__(self, stage: Stage, plan: NetworkPlan):
        self._stage = stage
        self._modules = dict(stage.network.named_modules(remove_duplicate=False))
        self._planned = {planned.site.name: planned for planned in plan.sites if planned.ratio is not None}
        self._sites = [_of(planned, self._modules) for planned in self._planned.values()]
        self._spans = plan.narrowed
        self._all_sites = {} if self._spans else dense_layers(self._sites, {})
        self._apart = {name for planned in self._spans for name in layers_around(planned.span)}
        self._apart |= set(self._planned)

    def findings(self, arguments: Arguments, plain: Performance, give_up: Callable[[str], None]) -> Findings:
        """What has to change in the plan.

        Args:
            arguments: what the network runs on.
            plain: what it gives as it is, with the values that its parameters have now.
            give_up: called with the verdict where nothing can be found out.
        """
        everything: list[_Planned] = [*self._sites, *self._spans]
        self._begin(arguments, plain)
        if self._fault(everything, self._all_sites) is None:
            return Findings()
        if not self._stage.run(arguments, self._dropped.layers).equals(self._plain, set()):
            give_up("not verified: the network gives different outputs on the same input")
            return Findings()
        with self._stage.in_double() as has_double:  # some networks make much of rounding
            if has_double and self._begins(in_double(arguments)):
                return self._findings_among(everything)
        self._begin(arguments, plain)
        return self._findings_among(everything)

    def _begin(self, arguments: Arguments, plain: Performance | None = None) -> None:
        """Compare with what the network gives on these, without the maps that go; ``plain`` is with all of them, if known."""
        self._arguments = arguments
        self._dropped = DroppedMaps(self._modules, self._spans)  # whose layers have values of their own
        known = None if self._spans else plain
        self._plain = known or self._stage.run(arguments, self._dropped.layers)

    def _begins(self, arguments: Arguments) -> bool:
        """Whether the network runs on other arguments; then all is compared with what it gives on them."""
        try:
            self._begin(arguments)
        except Exception:  # code of any kind runs here
            return False
        return self._plain.is_finite

    def _findings_among(self, everything: list[_Planned]) -> Findings:
        found, good = Findings(), list[_Planned]()
        for one, fault in self._faulty(everything, good):
            if isinstance(one, PlannedSpan):
                found.span_reasons[one.name] = fault
                continue
            for smaller, site in zip(_smaller(one), _smaller(self._planned[one.site.name]), strict=True):
                if self._fault([*good, smaller]) is None:
                    good.append(smaller)
                    found.sites[one.site.name] = site.site
                    break
            else:
                found.reasons[one.site.name] = fault
        return found

    def _faulty(self, some: Sequence[_Planned], good: list[_Planned]) -> list[tuple[_Planned, str]]:
        """Those that can't be converted, each with its fault; the others are added to the good ones."""
        fault = self._fault([*good, *some])
        if fault is None:
            good += some
            return []
        if len(some) == 1:
            return [(some[0], fault)]
        middle = len(some) // 2
        return [*self._faulty(some[:middle], good), *self._faulty(some[middle:], good)]

    def _fault(self, some: Sequence[_Planned], ready: Mapping[str, nn.Module] | None = None) -> str | None:
        """What is wrong with a network in which some sites and spans are converted; None where nothing is.

        Args:
            some: these.
            ready: what stands in the places of the sites among them, where that has been made.
        """
        sites = [one for one in some if isinstance(one, PlannedSite)]
        narrowed = self._dropped.narrowed([one.name for one in some if isinstance(one, PlannedSpan)])
        try:
            given = self._stage.run(self._arguments, {**narrowed, **(ready or dense_layers(sites, narrowed))})
        except Exception as error:  # code of any kind runs here
            return f"with another layer in its place the network fails: {first_line(error)}"
        if any(one.site.name in self._plain.layers and one.site.name not in given.layers for one in sites):
            return NEVER
        if given.equals(self._plain, self._apart):
            return None
        return ELSE if isinstance(some[-1], PlannedSite) else NARROWER


def _held(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"a copy of the model would use {name!r} of the model itself, which a function or hook in it holds (a lambda or "
        "closure): make that a method, or give inplace=True"
    )


def _of(planned: PlannedSite, modules: dict[str, nn.Module]) -> PlannedSite:
    """A planned site whose layers are those of the network that runs."""
    site = planned.site
    norm = site.norm if site.norm_name is None else modules[site.norm_name]
    act = site.act if site.act_name is None else modules[site.act_name]
    return replace(planned, site=replace(site, module=modules[site.name], norm=norm, act=act))


def _smaller(planned: PlannedSite) -> Iterator[PlannedSite]:
    """The same site with less in its Ghost module: without the activation, of which a copy stays; without the norm, too."""
    site = planned.site
    if site.act_name is not None:
        yield replace(planned, site=replace(site, act_name=None, shared_act=site.act_name))
    if site.norm_name is not None:
        yield replace(planned, site=replace(site, norm_name=None, norm=None, act_name=None, act=None, shared_act=None))


def _inputs(network: nn.Module, example: object, images: ImageData | None) -> Iterator[Arguments]:
    """Inputs that the network may run on, in the order in which they are to be tried."""
    parameter = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros((), device="cpu"))

    def filled(value: object) -> object:
        """Zeros, which may stand for a shape alone, tell nothing apart."""
        if not isinstance(value, Tensor) or not value.is_floating_point() or bool(value.any()):
            return value.to(parameter.device) if isinstance(value, Tensor) else value
        chance = torch.Generator("cpu").manual_seed(0)
        return torch.randn(value.shape, generator=chance, device="cpu").to(parameter.device, value.dtype)

    if example is not None:
        args = tree_map(filled, as_arguments(network, example))
        if len(args) == 1 and isinstance(args[0], Tensor) and args[0].dim() > 2 and len(args[0]) > IMAGES:
            yield (args[0][:IMAGES],), {}
        yield args, {}
    if images is not None:
        try:
            with undisturbed():
                yield next(as_calls(images, network, IMAGES, IMAGES))
        except (GhostifyError, StopIteration):  # is said where they are used
            pass
    for args in guessed_inputs(network):
        yield args, {}


def _shapes(arguments: Arguments) -> str:
    shapes = ["x".join(map(str, tensor.shape)) for tensor in tree_leaves(arguments) if isinstance(tensor, Tensor)]
    return " and ".join(shapes) or "an input without tensors"
