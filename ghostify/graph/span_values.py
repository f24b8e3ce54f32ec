"""What is known of the channels of a value while the spans of a graph are read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import lcm

from torch import fx

from .spans import Axis, Span, SpanUse

STREAM = "its maps are added to those of other layers, as the outputs of residual blocks are"


@dataclass
class Track:
    """A span while the graph is read.

    Attributes that a :class:`Span` does not have:
        summed: whether maps of several layers are added up in it.
        cut: whether it has a run of channels that was cut out of other maps: they have no layer of their own that makes them.
        parent: the span that it has become one with.
    """

    channels: int
    makers: list[str] = field(default_factory=list)
    carriers: list[SpanUse] = field(default_factory=list)
    readers: list[SpanUse] = field(default_factory=list)
    groups: int = 1
    summed: bool = False
    cut: bool = False
    reason: str = ""
    parent: "Track | None" = None

    def root(self) -> "Track":
        track = self
        while track.parent is not None:
            track = track.parent
        return track

    def unite(self, other: "Track") -> None:
        """Both are one span from here on."""
        first, second = self.root(), other.root()
        if first is second:
            return
        first.makers += second.makers
        first.carriers += second.carriers
        first.readers += second.readers
        first.groups = lcm(first.groups, second.groups)
        first.summed |= second.summed
        first.cut |= second.cut
        first.reason = first.reason or second.reason
        second.parent = first

    def bar(self, reason: str) -> None:
        """The span is not free; the first reason stays."""
        root = self.root()
        root.reason = root.reason or reason

    def span(self, streams: bool) -> Span:
        stream = self.summed and len(self.makers) > 1 and not streams
        reason = STREAM if stream else self.reason or self._reason()
        return Span(self.channels, tuple(self.makers), tuple(self.carriers), tuple(self.readers), self.groups, reason)

    def _reason(self) -> str:
        """Why a span is not free though nothing bars its maps."""
        if not self.readers:
            return "no layer reads its maps"
        targets = [use.target for use in self.readers]
        if twice := next((target for target in targets if targets.count(target) > 1), ""):
            return f"{twice} reads its maps twice, in one concatenation"
        if self.channels % self.groups:
            return f"its {self.channels} channels do not fall into {self.groups} equal groups"
        if 1 < self.groups == self.channels:
            return "a grouped convolution has a group for each of its channels, and needs all"
        return ""


@dataclass(frozen=True)
class Value:
    """The channels of a node's value: runs of spans, one after the other.

    Attributes:
        tracks: of the runs, in order; a span may stand there more than once.
        axis: where the channels stand.
        places: how many dimensions of places there are besides batch and channels; None where that is not known.
        flat: whether places were flattened into the channels.
    """

    tracks: tuple[Track, ...]
    axis: Axis = "second"
    places: int | None = None
    flat: bool = False

    @property
    def channels(self) -> int:
        return sum(track.channels for track in self.tracks)

    def offsets(self) -> Iterator[tuple[int, Track]]:
        """Each run's first channel, and its span."""
        offset = 0
        for track in self.tracks:
            yield offset, track.root()
            offset += track.channels

    @property
    def dims(self) -> int | None:
        """How many dimensions the value has, where that is known."""
        if self.axis == "only":
            return 2
        return None if self.places is None else self.places + 2

    def place_dims(self, dims: set[object]) -> set[int] | None:
        """Dimensions counted from the first one; None where they may be others than places."""
        counted = {self._counted(dim) for dim in dims}
        known = {dim for dim in counted if dim is not None}
        return known if len(known) == len(counted) and known <= self._places() else None

    def _counted(self, dim: object) -> int | None:
        if not isinstance(dim, int) or (dim < 0 and self.dims is None):
            return None
        return dim if dim >= 0 else dim + (self.dims or 0)

    def _places(self) -> set[int]:
        """The dimensions that are places for certain; of maps (N, C, ...) of unknown dimensions all from the third on."""
        if self.axis == "only":
            return set()
        if self.axis == "second":
            return set(range(2, 8 if self.dims is None else self.dims))
        return set() if self.dims is None else set(range(1, self.dims - 1))

    def excludes_channels(self, index: object) -> bool:
        """Whether an index of the value's sizes, a number or a slice, leaves the number of channels out."""
        if isinstance(index, slice):
            if self.dims is not None and not isinstance(index.start, fx.Node) and not isinstance(index.stop, fx.Node):
                return set(range(self.dims)[index]) <= {0} | self._places()
            return self.axis == "second" and isinstance(index.start, int) and index.start >= 2
        return self._counted(index) in {0} | self._places()

    def without_places(self, count: int) -> "Value | None":
        """The value after some dimensions of places are gone, all or some of them."""
        if self.places is None:
            return None
        left = self.places - count
        return replace(self, places=left) if left else Value(self.tracks, "only")
