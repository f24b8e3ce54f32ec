"""GhostModule and ReducedLinear: the layers that stand in for convolutions and fully connected layers."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from ..common.copying import copy_without_hooks
from ..common.pickling import named_by_package
from ..errors import ArgumentError
from .patterns import lookup
from .ratios import check_dw_size, intrinsic_channels, paper_sources

Cheap = Literal["depthwise", "pointwise"]


INDICES = ("channel_order", "ghost_source")  # buffers that a Ghost module has where they change anything


@named_by_package
@fx.wrap
def take_channels(maps: Tensor, index: Tensor, dim: int) -> Tensor:
    """``maps.index_select(dim, index)`` that leaves channels_last maps in their layout; one node to torch.fx."""
    if maps.stride(dim) == 1 and not maps.is_contiguous():
        return maps.movedim(dim, -1).index_select(-1, index).movedim(-1, dim)
    return maps.index_select(dim, index)


@named_by_package
class GhostModule(nn.Module):
    """A convolution that computes m intrinsic feature maps and makes the other maps from those by a cheap operation.

    With n output channels and ratio s, the primary convolution makes m = ceil(n / s) intrinsic maps; a d x d depthwise
    convolution (or, with ``cheap="pointwise"``, a 1x1 convolution over all intrinsic maps) makes exactly n - m ghost
    maps of them; both are concatenated. Children, parameter names and arithmetic are those of timm's ``GhostModule``.

    Args:
        in_channels: input channels.
        out_channels: output channels n.
        kernel_size: kernel of the primary convolution; padding is ``kernel_size // 2``.
        ratio: s > 1, any real number.
        dw_size: kernel size d of the cheap operation, odd.
        stride: stride of the primary convolution.
        cheap: ``"depthwise"`` (the paper's) or ``"pointwise"``.
        norm_layer: called with a number of channels for each of the two parts; None for none.
        act_layer: called with ``inplace=True`` for each of the two parts; None for none.
        device, dtype: of the parameters.

    Shape:
        input (N, in_channels, H, W); output (N, out_channels, H', W').

    Raises:
        ArgumentError: a ratio that is no finite number above 1, an even ``dw_size``, or too few output channels.

    Reference:
        Han et al., GhostNet: More Features from Cheap Operations, CVPR 2020, https://arxiv.org/abs/1911.11907

    Example:
        >>> GhostModule(16, 32, kernel_size=3)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 8, 8])
    """

    channel_order: Tensor | None
    ghost_source: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        ratio: float = 2,
        dw_size: int = 3,
        stride: int = 1,
        *,
        cheap: Cheap = "depthwise",
        norm_layer: Callable[..., nn.Module] | None = nn.BatchNorm2d,
        act_layer: Callable[..., nn.Module] | None = nn.ReLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        for name, value in (
            ("in_channels", in_channels), ("out_channels", out_channels), ("kernel_size", kernel_size), ("stride", stride)
        ):  # fmt: skip
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name} must be a whole number of at least 1, not {value!r}")
        if cheap not in ("depthwise", "pointwise"):
            raise ArgumentError(f"cheap must be 'depthwise' or 'pointwise', not {cheap!r}")
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        m = intrinsic_channels(out_channels, ratio)
        if m >= out_channels:
            raise ArgumentError(f"out_channels={out_channels} at ratio={ratio} leaves no ghost maps; use more channels")
        conv = nn.Conv2d(in_channels, m, kernel_size, stride, kernel_size // 2, bias=False, **factory)
        sources = paper_sources(out_channels - m, ratio)
        ghost = _cheap_conv(conv, m, out_channels - m, check_dw_size(dw_size), cheap, False, sources)

        def followers(channels: int) -> list[nn.Module]:
            norm = [norm_layer(channels, **factory)] if norm_layer else []
            return norm + ([act_layer(inplace=True)] if act_layer else [])

        self.out_channels = out_channels
        self.primary_conv = nn.Sequential(conv, *followers(m))
        self.cheap_operation = nn.Sequential(ghost, *followers(out_channels - m))
        self.intrinsic_act: nn.Module | None = None
        self.register_buffer("ghost_source", sources if cheap == "depthwise" and not _is_native(sources, m) else None)
        self.register_buffer("channel_order", None)
        self.channel_dim = -3
        ghost.reset_parameters()

    @classmethod
    def from_conv(
        cls,
        conv: Any,
        intrinsic: Tensor,
        sources: Tensor,
        *,
        norm: nn.Module | None = None,
        act: nn.Module | None = None,
        act_inside: bool = True,
        dw_size: int = 3,
        cheap: Cheap = "depthwise",
    ) -> "GhostModule":
        """The Ghost module that stands in for a convolution and what follows it.

        The primary convolution and its norm are the originals, narrowed to the intrinsic channels; the norm of the cheap
        operation is the original narrowed to the others. The cheap kernel passes the source map on unchanged (depthwise)
        or is zero (pointwise) until :mod:`ghostify.initialize` fits it.

        Args:
            conv: a convolution in 1, 2 or 3 dimensions, of any registered class.
            intrinsic: (m,) indices of the output channels to keep; with groups, equally many of each group, in order.
            sources: (n - m,) for each other channel, in increasing order, the position in ``intrinsic`` of the map it is
                made from; ignored for ``cheap="pointwise"``.
            norm, act: what follows the convolution, if it is to be part of the module.
            act_inside: whether ``act`` ends both parts. If not, the network applies it to the whole output afterwards,
                and a copy of it stands between the intrinsic maps and the cheap operation alone.
            dw_size: kernel size of the cheap operation, odd.
            cheap: ``"depthwise"`` or ``"pointwise"``.

        Raises:
            ArgumentError: a layer that can't be narrowed; the message names the parameter in the way.
        """
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.out_channels = conv.out_channels
        weight = conv.weight
        kept = torch.zeros(conv.out_channels, dtype=torch.bool)
        kept[intrinsic] = True
        others = (~kept).nonzero().flatten()
        m, ghosts = len(intrinsic), len(others)
        if cheap == "depthwise":
            # busiest maps first and ghosts in the order of their sources: the kernel then runs over a slice, not a gather
            if conv.groups == 1:
                busiest = torch.argsort(torch.bincount(sources, minlength=m), descending=True, stable=True)
                intrinsic, sources = intrinsic[busiest], torch.argsort(busiest)[sources]
            sources, by_source = torch.sort(sources, stable=True)
            others = others[by_source]
        primary = narrow(conv, intrinsic)
        if primary.groups > 1:
            primary.groups = conv.groups
        bias = getattr(conv, "bias", None) is not None and norm is None
        ghost = _cheap_conv(primary, m, ghosts, dw_size, cheap, bias, sources)
        for parameter in ghost.parameters():
            parameter.requires_grad_(weight.requires_grad)

        def followers(channels: Tensor) -> list[nn.Module]:
            inside = [act] if act is not None and act_inside else []
            return [narrow(layer, channels) for layer in ([norm] if norm is not None else []) + inside]

        self.primary_conv = nn.Sequential(primary, *followers(intrinsic))
        self.cheap_operation = nn.Sequential(ghost, *followers(others))
        self.intrinsic_act = None
        if act is not None and not act_inside:
            # who listens to the original hears of the whole output, and of nothing else
            self.intrinsic_act = copy_without_hooks(narrow(act, intrinsic))
            if hasattr(self.intrinsic_act, "inplace"):
                self.intrinsic_act.inplace = False  # the intrinsic maps themselves leave without it
        order = torch.argsort(torch.cat([intrinsic, others]))
        device = weight.device
        gather = cheap == "depthwise" and not _is_native(sources, m)
        self.register_buffer("ghost_source", sources.to(device) if gather else None)
        self.register_buffer("channel_order", order.to(device) if not torch.equal(order, torch.arange(len(order))) else None)
        self.channel_dim = 1 - weight.dim()
        self.train(conv.training)
        return self

    @property
    def intrinsic_channels(self) -> int:
        conv: Any = self.primary_conv[0]
        return conv.out_channels

    @property
    def cheap(self) -> Cheap:
        """The kind of cheap operation."""
        conv: Any = self.cheap_operation[0]
        return "pointwise" if conv.groups == 1 and conv.in_channels == self.intrinsic_channels > 1 else "depthwise"

    def original_channels(self) -> tuple[Tensor, Tensor]:
        """Output channels that the intrinsic maps (m,) and the ghost maps (n - m,) become, in the order they are made."""
        order = self.channel_order
        made = torch.arange(self.out_channels) if order is None else torch.argsort(order.cpu())
        return made[: self.intrinsic_channels], made[self.intrinsic_channels :]

    def source_positions(self) -> Tensor:
        """(n - m,) for each ghost map, in the order they are made, the intrinsic map a depthwise kernel makes it from."""
        conv: Any = self.cheap_operation[0]
        if self.ghost_source is not None:
            return self.ghost_source.cpu()
        return torch.arange(conv.out_channels) // (conv.out_channels // conv.groups)

    # what code around a convolution asks of it
    in_channels = property(lambda self: self.primary_conv[0].in_channels)
    kernel_size = property(lambda self: self.primary_conv[0].kernel_size)
    stride = property(lambda self: self.primary_conv[0].stride)
    padding = property(lambda self: self.primary_conv[0].padding)
    dilation = property(lambda self: self.primary_conv[0].dilation)
    groups = property(lambda self: self.primary_conv[0].groups)
    padding_mode = property(lambda self: self.primary_conv[0].padding_mode)

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary_conv(x)
        sources = intrinsic if self.intrinsic_act is None else self.intrinsic_act(intrinsic)
        conv: Any = self.cheap_operation[0]
        used = conv.in_channels
        if self.ghost_source is not None:
            sources = take_channels(sources, self.ghost_source, self.channel_dim)
        elif used < self.intrinsic_channels:
            sources = sources.narrow(self.channel_dim, 0, used)
        out = torch.cat([intrinsic, self.cheap_operation(sources)], dim=self.channel_dim)
        return out if self.channel_order is None else take_channels(out, self.channel_order, self.channel_dim)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state of version 0.1.0, too, where ``channel_dim`` had an underscore before its name."""
        renamed = {"_channel_dim": "channel_dim"}
        super().__setstate__({renamed.get(name, name): value for name, value in state.items()})

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, intrinsic={self.intrinsic_channels}, cheap={self.cheap}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """An index that is absent from the state dict is absent from the module afterwards, and the other way round."""
        if f"{prefix}primary_conv.0.weight" in state_dict:
            primary: Any = self.primary_conv[0]
            for name in INDICES:
                loaded = state_dict.get(prefix + name)
                self.register_buffer(name, None if loaded is None else torch.empty_like(loaded, device=primary.weight.device))
            if self.cheap == "depthwise":
                conv: Any = self.cheap_operation[0]
                groups = _native_groups(conv.out_channels, self.intrinsic_channels)
                conv.in_channels = conv.groups = groups if self.ghost_source is None else conv.out_channels
        super()._load_from_state_dict(state_dict, prefix, *args)


def narrow(layer: nn.Module, channels: Tensor) -> Any:
    """A layer that gives only these channels, in this order.

    Raises:
        ArgumentError: of no known kind, or one that can't be narrowed.
    """
    pattern = lookup(layer)
    if pattern is None:
        raise ArgumentError(f"{type(layer).__name__} is in no pattern; ghostify.register_pattern adds it")
    return pattern.narrow(layer, channels)


def _cheap_conv(primary: Any, m: int, ghosts: int, dw_size: int, cheap: Cheap, bias: bool, sources: Tensor) -> Any:
    """The cheap operation's convolution, in the dimensions, on the device and of the type of the primary one.

    Its depthwise kernel passes each map on unchanged and its pointwise one is zero, so that nothing is drawn at random.
    """
    weight = primary.weight
    conv_class: Any = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[weight.dim()]
    used = _groups(sources, m)
    with torch.device("meta"):
        if cheap == "pointwise":
            conv = conv_class(m, ghosts, 1, bias=bias, dtype=weight.dtype)
        else:
            conv = conv_class(used, ghosts, dw_size, padding=dw_size // 2, groups=used, bias=bias, dtype=weight.dtype)
    conv = conv.to_empty(device=weight.device)
    if not weight.is_meta:
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.zero_()
            if cheap == "depthwise":
                conv.weight[(slice(None), 0, *(dw_size // 2,) * (weight.dim() - 2))] = 1
    return conv


def _groups(sources: Tensor, m: int) -> int:
    """Groups of a depthwise kernel that runs over a slice of the maps, or one group a ghost where a gather is needed."""
    return _native_groups(len(sources), m) if _is_native(sources, m) else len(sources)


def _native_groups(ghosts: int, m: int) -> int:
    return ghosts // math.ceil(ghosts / m)


def _is_native(sources: Tensor, m: int) -> bool:
    """Whether each of the first maps in turn has the same number of ghosts, as a grouped convolution takes them."""
    per_map = math.ceil(len(sources) / m)
    return len(sources) % per_map == 0 and torch.equal(sources, torch.arange(len(sources)) // per_map)
