"""GhostModule: the layer that stands in for a convolution."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..common.copying import copy_without_hooks
from ..common.pickling import named_by_package
from ..errors import ArgumentError
from .absent_weight import AbsentWeight, no_weight
from .cheap_conv import Cheap, cheap_conv
from .convolution import Convolution, as_convolution
from .ghost_channels import channels_as_given, channels_by_source, is_slice, slice_groups
from .layer_classes import narrow
from .ratios import check_dw_size, intrinsic_channels, paper_sources

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
        device, dtype: where the parameters lie, and their type.

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
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "kernel_size": kernel_size, "stride": stride}
        for name, value in sizes.items():
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
        ghost = cheap_conv(conv, m, out_channels - m, check_dw_size(dw_size), cheap, False, sources)

        def followers(channels: int) -> list[nn.Module]:
            norm = [norm_layer(channels, **factory)] if norm_layer else []
            return norm + ([act_layer(inplace=True)] if act_layer else [])

        self.out_channels = out_channels
        self.primary_conv = nn.Sequential(conv, *followers(m))
        self.cheap_operation = nn.Sequential(ghost, *followers(out_channels - m))
        self.intrinsic_act: nn.Module | None = None
        self.register_buffer("ghost_source", sources if cheap == "depthwise" and not is_slice(sources, m) else None)
        self.register_buffer("channel_order", None)
        self.channel_dim = -3
        ghost.reset_parameters()

    @classmethod
    def from_conv(
        cls,
        conv: Convolution,
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
        or is zero (pointwise) until :mod:`ghostify.surgery.warm_start` fits it.

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
        channels = channels_as_given(conv.out_channels, intrinsic, sources)
        if cheap == "depthwise":
            channels = channels_by_source(channels, conv.groups)
        m, weight = len(intrinsic), conv.weight
        primary = narrow(conv, channels.intrinsic)
        if primary.groups > 1:
            primary.groups = conv.groups
        bias = getattr(conv, "bias", None) is not None and norm is None
        ghost = cheap_conv(primary, m, len(channels.ghosts), dw_size, cheap, bias, channels.sources)
        for parameter in ghost.parameters():
            parameter.requires_grad_(weight.requires_grad)
        followers = [layer for layer in (norm, act if act_inside else None) if layer is not None]
        self = cls.__new__(cls)
        nn.Module.__init__(self)
        self.out_channels = conv.out_channels
        self.primary_conv = nn.Sequential(primary, *(narrow(layer, channels.intrinsic) for layer in followers))
        self.cheap_operation = nn.Sequential(ghost, *(narrow(layer, channels.ghosts) for layer in followers))
        self.intrinsic_act = None if act is None or act_inside else _act_apart(act, channels.intrinsic)
        gather = cheap == "depthwise" and not is_slice(channels.sources, m)
        self.register_buffer("ghost_source", channels.sources.to(weight.device) if gather else None)
        self.register_buffer("channel_order", None if channels.order is None else channels.order.to(weight.device))
        self.channel_dim = 1 - weight.dim()
        return self.train(conv.training)

    @property
    def intrinsic_channels(self) -> int:
        return as_convolution(self.primary_conv[0]).out_channels

    @property
    def cheap(self) -> Cheap:
        """The kind of cheap operation."""
        conv = as_convolution(self.cheap_operation[0])
        return "pointwise" if conv.groups == 1 and conv.in_channels == self.intrinsic_channels > 1 else "depthwise"

    def original_channels(self) -> tuple[Tensor, Tensor]:
        """Output channels that the intrinsic maps (m,) and the ghost maps (n - m,) become, in the order they are made."""
        order = self.channel_order
        channels = torch.arange(self.out_channels) if order is None else torch.argsort(order.cpu())
        return channels[: self.intrinsic_channels], channels[self.intrinsic_channels :]

    def source_positions(self) -> Tensor:
        """(n - m,) for each ghost map, in the order they are made, the intrinsic map a depthwise kernel makes it from."""
        conv = as_convolution(self.cheap_operation[0])
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

    def __getattr__(self, name: str) -> Any:
        """
        Raises:
            AttributeError: there is no such attribute; the message about weights names what code that reads them can take.
        """
        if name == "weight" and vars(self).get("tells_type"):
            weight = as_convolution(self.primary_conv[0]).weight
            return AbsentWeight.like(weight, (self.out_channels, *weight.shape[1:]))
        if name in ("weight", "bias"):
            raise AttributeError(no_weight(name, "GhostModule"))
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        intrinsic = self.primary_conv(x)
        sources = activated(intrinsic, self.intrinsic_act)
        used = as_convolution(self.cheap_operation[0]).in_channels
        if self.ghost_source is not None:
            sources = take_channels(sources, self.ghost_source, self.channel_dim)
        elif used < self.intrinsic_channels:
            sources = sources.narrow(self.channel_dim, 0, used)
        out = torch.cat([intrinsic, self.cheap_operation(sources)], dim=self.channel_dim)
        return out if self.channel_order is None else take_channels(out, self.channel_order, self.channel_dim)

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take a state of version 0.1.0, too, where ``channel_dim`` had an underscore before its name."""
        renamed = {"_channel_dim": "channel_dim"}
        super().__setstate__({renamed.get(name, name): value for name, value in state.items()})

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, intrinsic={self.intrinsic_channels}, cheap={self.cheap}"

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """An index that is absent from the state dict is absent from the module afterwards, and the other way round."""
        if f"{prefix}primary_conv.0.weight" in state_dict:
            device = as_convolution(self.primary_conv[0]).weight.device
            for name in INDICES:
                loaded = state_dict.get(prefix + name)
                self.register_buffer(name, None if loaded is None else torch.empty_like(loaded, device=device))
            if self.cheap == "depthwise":
                conv = as_convolution(self.cheap_operation[0])
                groups = slice_groups(conv.out_channels, self.intrinsic_channels)
                conv.in_channels = conv.groups = groups if self.ghost_source is None else conv.out_channels
        super()._load_from_state_dict(state_dict, prefix, *args)


def activated(maps: Tensor, act: nn.Module | None) -> Tensor:
    """The maps after an activation, themselves left as they are: Ultralytics, for one, sets all activations of a file to work
    in place."""
    if act is None:
        return maps
    return act(maps.clone() if getattr(act, "inplace", False) else maps)


def _act_apart(act: nn.Module, intrinsic: Tensor) -> nn.Module:
    """A copy of an activation that stands between the intrinsic maps and the cheap operation alone."""
    copied: Any = copy_without_hooks(narrow(act, intrinsic))  # hooks of the original are called for the whole output alone
    if hasattr(copied, "inplace"):
        copied.inplace = False  # the intrinsic maps themselves leave without it
    return copied
