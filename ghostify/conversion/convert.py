"""convert(): trace to find sites, plan a ratio for each, build Ghost modules from the original layers, swap them in."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import nn

from ..absorption.by_weights import absorb_by_weights
from ..common.checks import check_model
from ..common.random_state import cpu_by_default
from ..errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from ..graph.find_sites import find_sites, trace_layers
from ..graph.network_spans import find_network_spans
from ..graph.sites import Site
from ..graph.spans import Span
from ..graph.tracing import Part
from ..graph.usage import derived_modules
from ..inputs.images import ImageData
from ..inputs.zoo import create_model
from ..layers.ghost_module import GhostModule
from ..layers.reduced_linear import ReducedLinear
from ..students.conversion_recipe import attach_recipe, make_recipe, recipe_of, record_span
from ..surgery.planned import PlannedSite
from ..surgery.swap import RefusedSitesError, make_swaps, rebased, swap
from .budget import plan_budget
from .closures import attributes_kept
from .goal import ConversionGoal
from .network_plan import NetworkPlan
from .only_if_faster import only_faster, only_faster_within
from .plan import check_patterns, make_plan, nothing_to_convert
from .rehearsal import Findings, Rehearsal
from .sensitivity_table import Sensitivity
from .settings import SKIPS, GhostConfig
from .span_budget import plan_span_budget
from .span_plan import ignored_settings, plan_layers, plan_spans
from .target import Budget, Target

M = TypeVar("M", bound=nn.Module)


def convert(
    model: M | Callable[[], M] | str,
    ratio: float | None = None,
    *,
    target: Mapping[str, float | str] | None = None,
    sensitivity: Sensitivity | str | Path | None = None,
    images: ImageData | None = None,
    dw_size: int = 3,
    cheap: str = "depthwise",
    ratios: Mapping[str, float | None] | None = None,
    linear_ratio: float | None = None,
    skip: Sequence[str] = tuple(SKIPS),
    min_channels: int = 8,
    round_to: int | None = None,
    init: str = "warm",
    seed: int = 0,
    only_if_faster: str | None = None,
    example_input: object = None,
    progress: bool = False,
    inplace: bool = False,
) -> M:
    """Convert a network to Ghost modules, or, with ``cheap="absorbed"``, to a plain narrower one.

    Absorbed ghosts are maps that are never computed: the layers that read them absorb them. Of each span, the maps between
    the layers that make them and those that read them, some stay; these layers, and what carries the maps, get narrower and
    keep their classes. Outputs of the network and of residual blocks stay as they are.

    Args:
        model: the network; or a constructor such as ``torchvision.models.resnet50``; or a name, ``"resnet50"``,
            ``"timm/..."`` or ``"torchvision/..."``. Constructors and names give untrained networks: pass a module to
            keep its weights.
        ratio: s, any number > 1, by default 2. A layer of n channels computes m = ceil(n / s) and makes n - m of those; with
            absorbed ghosts m of the n maps of a span stay, and the others are not made.
        target: in place of ``ratio``, what the student may cost, never more: ``{"flops": 0.5}`` or ``{"params": 0.5}``, a
            share of the original's; ``{"flops": "2G"}``, multiply-adds; ``{"latency": 0.6}`` or ``{"latency": "12ms"}``, the
            sum of what each site takes on this machine, for Ghost modules only. Each site or span gets a ratio of its own such
            that little is lost.
        sensitivity: what :func:`ghostify.sensitivity` found, or its file, for ``target`` to go by; far better than the guess
            from the weights that is made without. For ``cheap="absorbed"`` it is measured with ``method="one_pass"``.
        images: for ``target`` and ``cheap="absorbed"`` or ``"auto"``, in place of ``sensitivity``: unlabelled images as for
            :func:`ghostify.calibrate`, of which at most 256 are run through the original once to tell what each span loses.
        dw_size: kernel size d of the depthwise cheap operation: 1, 3, 5 or 7.
        cheap: ``"depthwise"``, the paper's; ``"pointwise"``, a 1x1 convolution over all intrinsic maps; or ``"auto"``,
            pointwise where it costs at most an eighth of the dense layer for each map, else depthwise; or ``"absorbed"``, no
            operation at all. With ``target`` and ``images``, ``"auto"`` shares the target out over both kinds: spans keep as
            many maps as pays, as with ``"absorbed"``, and convolutions without an activation that give the outputs of blocks
            stay or become Ghost modules.
        ratios: other ratios by qualified name or glob, ``{"layer4.*": 4, "layer1.0.conv1": None}``. The last match wins,
            None keeps a site dense, and a full name also overrules ``skip`` and ``min_channels``. Absorbed ghosts go by the
            layers that make the maps of a span: None keeps all of these maps, while the layer may still read fewer.
        linear_ratio: how many times fewer weights fully connected layers get (:class:`ReducedLinear`). The last
            layer before the output stays as it is unless ``ratios`` has its full name.
        skip: what stays dense by its place: ``"first"`` convolution, convolutions on ``"pooled"`` 1x1 maps, convolutions that
            come ``"last"``, as in segmentation heads: what follows them on the way to the output has no weights, and is no
            activation but a sigmoid or tanh. In networks that trace in parts alone, as detectors do, none counts as last. Of
            spans all maps stay where the first convolution makes them, or where all layers that make them are skipped.
        min_channels: layers with fewer output channels stay dense, and spans of fewer maps keep them all.
        round_to: round the intrinsic channels, or the maps that stay, up to a multiple of this, for hardware that likes 8 or
            16. None: no rounding for Ghost modules; spans of 64 maps and more keep a multiple of 8, of 16 and more one of 4.
        init: ``"warm"`` starts Ghost modules from the original weights and norms; ``"random"`` resets them, for training
            from scratch.
        seed: of ``init="random"``.
        only_if_faster: a runtime as for :func:`ghostify.latency`, ``"openvino"``, ``"onnxruntime"``, ``"compile"``, ...: sites
            that are not faster there as Ghost modules stay dense, and a target is shared out over the others; not for
            absorbed ghosts. What was timed is remembered in
            ``~/.cache/ghostify``.
        example_input: what the model is run on before it is converted, with dense layers in the new layers' places, and what
            ``target`` and ``only_if_faster`` count and time for: a tensor, a shape such as ``(1, 3, 224, 224)``, or a tuple of
            forward arguments. Without it the first ``images`` are run, or an input that is guessed; costs are counted without
            it for models of timm and torchvision, and for params.
        progress: show a progress bar while sites are timed or spans are surveyed.
        inplace: change ``model`` itself instead of a copy.

    Returns:
        A model of the same class, on the same device and of the same type, which takes and gives the same shapes.
        :func:`ghostify.report` tells what was converted, and why the rest was not; of absorbed ghosts also its ``spans``,
        each with the layers around it. Layers in whose places others would change what the model computes, since its code looks
        at them, stay dense; the report's ``verified`` says on what that was tried. The argument is unchanged unless
        ``inplace``.

    Raises:
        ArgumentError, ArgumentTypeError: a setting is out of range, or a name is not known.
        UnsupportedModelError: the model is wrapped, compiled, scripted or uninitialised, has nothing to convert, or has a
            function that holds it and uses its layers, parameters or attributes, which a copy would share.

    Example:
        >>> student = ghostify.convert(torchvision.models.resnet50(), ratio=2)
        >>> print(ghostify.report(student))
        >>> narrower = ghostify.convert(teacher, target={"flops": 0.5}, cheap="absorbed", images=images)
    """
    goal = ConversionGoal.parse(
        ratio=ratio,
        target=target,
        sensitivity=sensitivity,
        images=images,
        only_if_faster=only_if_faster,
        example_input=example_input,
        progress=progress,
    )
    config = GhostConfig(
        ratio=2 if ratio is None else ratio,
        dw_size=dw_size,
        cheap=cheap,
        ratios={} if ratios is None else ratios,
        linear_ratio=linear_ratio,
        skip=skip,
        min_channels=min_channels,
        round_to=round_to,
        init=init,
        seed=seed,
    )
    network = cast(M, model if isinstance(model, nn.Module) else _build(model))
    return convert_with(network, config, goal, inplace, network is not model)


def convert_with(network: M, config: GhostConfig, goal: ConversionGoal, inplace: bool = False, unused: bool = False) -> M:
    """:func:`convert` with settings and a goal that are checked already.

    Args:
        network: the original.
        config: settings.
        goal: what is aimed at.
        inplace: change the network itself instead of a copy.
        unused: whether nobody else has the network, so that no copy is needed.
    """
    check_model(network)
    rehearsal = Rehearsal(network, inplace or unused, goal.example_input, goal.images)
    with attributes_kept(network):  # functions that a copy has in common with it may leave something there
        parts = trace_layers(network, rehearsal.arguments, probes=rehearsal.probes)
    spans = config.cheap == "absorbed" or goal.images is not None
    layers = _Layers(parts, find_sites(network, parts), find_network_spans(network, parts) if spans else [])
    while True:  # planned anew without what can't be converted
        plan = _plan_for(network, layers, config, goal)
        _check_plan(network, plan, inplace)
        findings = rehearsal.findings(plan)
        if findings.nothing:
            try:
                return _carry_out(network, replace(plan, verified=rehearsal.verdict), config, inplace or unused)
            except RefusedSitesError as refusal:
                if refusal.reasons.keys() & config.ratios.keys():
                    raise
                findings.reasons.update(refusal.reasons)
        layers = layers.without(findings)


@dataclass(frozen=True)
class _Layers:
    """What of a network may be converted."""

    parts: Sequence[Part]
    sites: Sequence[Site]
    spans: Sequence[Span]

    def without(self, findings: Findings) -> "_Layers":
        """The same, where some sites and spans have a reason to stay as they are, and others another form."""
        changed = [findings.sites.get(site.name, site) for site in self.sites]
        sites = [replace(site, reason=findings.reasons.get(site.name, site.reason)) for site in changed]
        why = findings.span_reasons
        return replace(self, sites=sites, spans=[replace(s, reason=why.get(s.makers[0], s.reason)) for s in self.spans])


def _carry_out(network: M, plan: NetworkPlan, config: GhostConfig, inplace: bool) -> M:
    """The student that a plan makes of a network; the network itself where it may be changed ``inplace``.

    Raises:
        RefusedSitesError: layers can't be split by output channels; nothing is changed.
    """
    # parameters made in inference mode could never be trained, and the choice of channels needs a device with values
    with torch.inference_mode(False), cpu_by_default():
        sites = {planned.site.name: planned.site for planned in plan.sites}
        absorption = absorb_by_weights(network, plan.spans, sites, config.init, config.seed)
        swaps = absorption.layers | make_swaps(rebased(plan.sites, absorption.layers), config.init, config.seed)
        spans = [record_span(span, absorption.kept.get(span.name)) for span in plan.spans]
        # before the swap, which in place makes other layers of those of the plan
        before = recipe_of(network)
        recipe = make_recipe(plan.sites, config.to_dict(plan.budget), before, spans)
        derived = before.derived if before else derived_modules(network)
        student = swap(network, swaps, inplace)
    attach_recipe(student, replace(recipe, verified=plan.verified, derived=derived))
    return student


def _plan_for(network: nn.Module, layers: _Layers, config: GhostConfig, goal: ConversionGoal) -> NetworkPlan:
    """What becomes of each site and each span; and, where there is a target, what it came to."""
    sites = layers.sites
    if config.cheap == "absorbed":
        if goal.only_if_faster is not None:
            raise ArgumentError("only_if_faster goes with Ghost modules; ghostify.compress makes absorbed ghosts fast")
        if goal.target is not None:
            return plan_span_budget(network, sites, layers.spans, layers.parts, config, goal)
        return _plan_absorbed(sites, layers.spans, config)
    if goal.images is not None:
        if config.cheap != "auto":
            kinds = "cheap='absorbed' and 'auto'"
            raise ArgumentError(f"images goes with {kinds}; for cheap={config.cheap!r} give ghostify.sensitivity's result")
        if goal.only_if_faster is not None:
            raise ArgumentError("only_if_faster goes without images, by which cheap='auto' absorbs ghosts as well")
        return plan_span_budget(network, sites, layers.spans, layers.parts, config, goal)
    if goal.target is not None:
        return _plan_target(network, sites, config, goal, goal.target)
    plan = make_plan(sites, config)
    if goal.only_if_faster is not None:
        plan = only_faster(network, plan, config, goal.only_if_faster, goal.example_input, goal.progress)
    return NetworkPlan(plan)


def _plan_target(
    network: nn.Module, sites: Sequence[Site], config: GhostConfig, goal: ConversionGoal, target: Target
) -> NetworkPlan:
    """Ghost modules that keep to a target; each faster than what it stands for, where that is asked for."""

    def share_out(settings: GhostConfig) -> tuple[list[PlannedSite], Budget]:
        return plan_budget(network, sites, settings, target, goal.sensitivity, goal.example_input)

    if goal.only_if_faster is None:
        plan, budget = share_out(config)
    else:
        plan, budget = only_faster_within(network, share_out, config, goal.only_if_faster, goal.example_input, goal.progress)
    return NetworkPlan(plan, budget=budget)


def _plan_absorbed(sites: Sequence[Site], spans: Sequence[Span], config: GhostConfig) -> NetworkPlan:
    check_patterns(sites, config)
    for told in ignored_settings(spans, config):
        warnings.warn(told, stacklevel=5)
    planned = plan_spans(spans, {site.name: site for site in sites}, config)
    return NetworkPlan(plan_layers(sites, planned, config), planned)


def _check_plan(network: nn.Module, plan: NetworkPlan, inplace: bool) -> None:
    """Refuse a plan that can't be carried out.

    Raises:
        UnsupportedModelError: the plan converts nothing, or the whole model where it is to be changed in place; or it narrows
            what was narrowed before.
    """
    recipe = recipe_of(network)
    if recipe is not None and recipe.narrowed and plan.narrowed:
        raise UnsupportedModelError("model is a student with absorbed ghosts already: convert its original at another ratio")
    already = any(isinstance(m, (GhostModule, ReducedLinear)) for m in network.modules()) or (recipe and recipe.narrowed)
    if not already and not plan.converts:
        raise UnsupportedModelError(nothing_to_convert(network, [p.reason for p in plan.sites]))
    if inplace and any(p.ratio and not p.site.name for p in plan.sites):
        raise UnsupportedModelError(
            f"model is itself a {type(network).__name__}, which can't be replaced in place: leave inplace"
        )


def _build(model: object) -> nn.Module:
    """The network that a name or a constructor stands for, without trained weights.

    Raises:
        ArgumentError, ArgumentTypeError: it is neither, or gives no network.
    """
    if isinstance(model, str):
        return create_model(model)
    if not callable(model):
        raise ArgumentTypeError(f"model must be a module, a constructor or a name, not {type(model).__name__}")
    try:
        network = model()
    except TypeError as error:
        raise ArgumentTypeError(f"model must be a constructor that takes no arguments: {error}") from error
    if not isinstance(network, nn.Module):
        raise ArgumentTypeError(f"model() must return a torch.nn.Module, not {type(network).__name__}")
    return network
