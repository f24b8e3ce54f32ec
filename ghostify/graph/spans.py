"""Spans: the maps between layers, who makes their channels, who carries them, who reads them.

A span is a set of channels that can be made fewer together: the layers that make them give fewer, the layers that carry them
(norms, depthwise convolutions) get narrower, and the layers that read them lose columns. Values that are combined channel by
channel share their spans; a concatenation keeps the spans of what it joins, one after the other.
"""

from dataclasses import dataclass
from typing import Literal

# where the channels of a value stand: second of (N, C, ...), last of (N, ..., C), or of (N, C), where both are one
Axis = Literal["second", "last", "only"]


@dataclass(frozen=True)
class SpanUse:
    """A layer, or a parameter, whose channels begin with those of a span at some place.

    Attributes:
        target: of the layer or of the parameter, as the graph names it.
        offset: the first input channel of the layer that belongs to the span.
        width: input features for each channel: 1, or the places of a map that was flattened.
    """

    target: str
    offset: int = 0
    width: int = 1


@dataclass(frozen=True)
class Span:
    """Channels that are made, carried and read together.

    Attributes:
        channels: how many.
        makers: targets of the layers that make them, each all of its output channels.
        carriers: layers and parameters with values for each channel.
        readers: convolutions and fully connected layers that mix the channels.
        groups: equal runs of channels of which equally many have to stay, as grouped convolutions need them.
        reason: why the channels can't be made fewer; empty for a free span.
    """

    channels: int
    makers: tuple[str, ...]
    carriers: tuple[SpanUse, ...]
    readers: tuple[SpanUse, ...]
    groups: int = 1
    reason: str = ""


@dataclass(frozen=True)
class ChannelLayout:
    """Where the channels of a node's value stand, and whose they are.

    Attributes:
        runs: indices of spans, one after the other as their channels are; a span may stand there more than once.
        axis: where the channels stand.
        places: how many dimensions of places there are besides batch and channels; None where that is not known.
        flat: whether places were flattened into the channels.
    """

    runs: tuple[int, ...]
    axis: Axis = "second"
    places: int | None = None
    flat: bool = False
