"""The rows of a conversion's report: layers, and the spans between them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One site. FLOPs are None where no input is known; ``reason`` says why a site was skipped."""

    name: str
    kind: str
    layers: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    ratio: float | None
    cheap: str
    intrinsic: int
    params_before: int
    params_after: int
    flops_before: int | None
    flops_after: int | None
    reason: str | None
    in_channels_after: int | None = None
    out_channels_after: int | None = None

    @property
    def shape(self) -> str:
        """``in → out, kernel`` in one word, such as ``64→128 3x3``; with what it is now where the layer got narrower."""
        kernel = "x".join(map(str, self.kernel_size))
        before, after = f"{self.in_channels}→{self.out_channels}", f"{self.in_channels_after}→{self.out_channels_after}"
        now = f", now {after}" if self.in_channels_after is not None and after != before else ""
        return f"{before} {kernel}".rstrip() + now


@dataclass(frozen=True)
class SpanRow:
    """One span: the layers around it, and what those cost before and after.

    Attributes:
        name: the first layer that makes its maps.
        makers, carriers, readers: qualified names of the layers that make, carry and read the maps.
        channels, kept: how many maps there were, and how many stayed.
        params_before, params_after: parameters of makers and readers, with the norms that belong to them. A layer that makes
            maps of one span and reads those of another counts in both.
        flops_before, flops_after: multiply-adds of makers and readers; None where no input is known.
        reason: why all maps stayed; None where some did not.
    """

    name: str
    makers: tuple[str, ...]
    carriers: tuple[str, ...]
    readers: tuple[str, ...]
    channels: int
    kept: int
    params_before: int
    params_after: int
    flops_before: int | None
    flops_after: int | None
    reason: str | None
