"""What each site of a network loses at each ratio: a table, a heat map, a JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.files import write_text
from ..common.report import ReportBase, TextTable
from ..errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 1

METRICS = {"kl": "divergence, nats", "error": "relative error of the site", "top1": "top-1"}


@dataclass(frozen=True)
class SiteSensitivity:
    """One site at one ratio, all others as they were.

    Attributes:
        name: qualified name of the site.
        ratio: s; ``intrinsic`` and ``cheap`` are the channels and the operation that it came to.
        error: squared error of the site's output relative to its variance; None where the site sees nothing.
        kl: Kullback-Leibler divergence of the model's class probabilities from the original's, in nats, mean over images.
        top1: share of the images that the model gets right.
    """

    name: str
    ratio: float
    intrinsic: int
    cheap: str
    error: float | None
    kl: float | None
    top1: float | None = None


@dataclass(frozen=True)
class LossCurve:
    """What a span loses at every number of channels, all others as they were and its readers fitted anew.

    Attributes:
        name: qualified name of the first layer that makes its maps.
        cheap: ``"absorbed"``.
        channels: how many it has.
        counts: numbers of channels that may stay, in increasing order.
        losses: squared error of what its readers give when so many stay, relative to the variance of their blocks' outputs.
    """

    name: str
    cheap: str
    channels: int
    counts: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Header:
    """What was measured, and how: two measurements with equal headers may be put together."""

    model: str
    images: int
    ratios: tuple[float, ...]
    cheap: str
    dw_size: int
    seed: int
    weights: int  # checksums
    pixels: int
    labels: int = 0
    method: str = "site_by_site"


@dataclass(frozen=True)
class Sensitivity(ReportBase):
    """What each site loses at each ratio; made by :func:`ghostify.sensitivity`.

    Attributes:
        header: model, images and settings.
        rows: sites, or spans by the layers that make them, in execution order, ratios in increasing order.
        top1: share of the same images that the original gets right; None without labels.
        curves: what spans lose at every number of channels, where they were measured by one pass.
    """

    indent = 1

    header: Header
    rows: tuple[SiteSensitivity, ...]
    top1: float | None = None
    curves: tuple[LossCurve, ...] = ()

    @property
    def sites(self) -> list[str]:
        """Names of the sites, in execution order."""
        return list(dict.fromkeys(row.name for row in self.rows))

    def plot(self, metric: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """A heat map: sites in execution order from left to right, ratios from bottom to top; dark is dear.

        Args:
            metric: ``"kl"``, on a logarithmic scale; ``"error"``; or ``"top1"``. None: ``"kl"`` where there is one.
            ax: axes to draw into; a new figure otherwise.

        Raises:
            ArgumentError: another metric, or one that was not measured.
        """
        import numpy as np

        from ..common.figures import heat_map

        metric = metric or self.metric()
        if metric not in METRICS:
            raise ArgumentError(f"metric must be {', '.join(map(repr, METRICS))}, not {metric!r}")
        sites, ratios = self.sites, self.header.ratios
        cells = np.full((len(ratios), len(sites)), np.nan)
        for row in self.rows:
            value = getattr(row, metric)
            cells[ratios.index(row.ratio), sites.index(row.name)] = np.nan if value is None else value
        if np.isnan(cells).all():
            raise ArgumentError(f"metric={metric!r} was not measured")
        return heat_map(
            cells,
            sites,
            [f"{ratio:g}" for ratio in ratios],
            title=f"{self.header.model}: {METRICS[metric]}, one {'span' if self.curves else 'site'} at a time",
            label=METRICS[metric],
            logarithmic=metric == "kl",
            low_is_dark=metric == "top1",
            ax=ax,
        )

    def save(self, path: str | Path) -> None:
        """Write a JSON file, which appears under its name only once it is complete.

        Raises:
            ArgumentError: it can't be written there.
        """
        write_text(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Sensitivity":
        """Read the file that :meth:`save` wrote.

        Raises:
            ArgumentError: no such file, or it is something else.
        """
        try:
            data = json.loads(Path(path).read_text())
            if data.pop("format") != FORMAT:
                raise ValueError("of another version of ghostify")
            header = Header(**{**data["header"], "ratios": tuple(data["header"]["ratios"])})
            rows = tuple(SiteSensitivity(**row) for row in data["rows"])
            return cls(header, rows, data["top1"], tuple(map(_read_curve, data.get("curves", ()))))
        except OSError as error:
            raise ArgumentError(f"sensitivity {str(path)!r} can't be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise ArgumentError(f"sensitivity {str(path)!r} is no file of ghostify.sensitivity: {reason}") from error

    def summary(self) -> str:
        """The totals in a few lines."""
        what = f"{len(self.curves)} spans in one pass" if self.curves else f"{len(self.sites)} sites"
        lines = [f"{self.header.model}: {what}, {self.header.images} images, cheap={self.header.cheap!r}"]
        lines = lines + ([f"top-1 of the original on them {self.top1:.2%}"] if self.top1 is not None else [])
        if self.rows and not self.curves and all(row.kl is None for row in self.rows):
            lines.append("no class scores in what the model returns: relative errors of the sites instead of divergences")
        return "\n".join(lines)

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [asdict(row) for row in self.rows]

    def _columns(self) -> Sequence[str]:
        return [field.name for field in fields(SiteSensitivity)]

    def _json_values(self) -> dict[str, object]:
        return {"format": FORMAT, **asdict(self)}

    def _printed(self) -> TextTable:
        """A row for each site, a column for each ratio."""
        metric, ratios = self.metric(), self.header.ratios
        title, scale = ("site", 1.0) if metric == "error" else ("site, divergence in millinats", 1000.0)
        values = {(row.name, row.ratio): getattr(row, metric) for row in self.rows}
        rows = []
        for name in self.sites:
            at_ratios = [values.get((name, ratio)) for ratio in ratios]
            rows.append([name, *("" if value is None else f"{scale * value:.3f}" for value in at_ratios)])
        return TextTable([title, *(f"s = {ratio:g}" for ratio in ratios)], rows, right=range(1, len(ratios) + 1))

    def metric(self) -> str:
        """What sites are compared by: the divergence, or the error where no site has one."""
        return "kl" if any(row.kl is not None for row in self.rows) else "error"

    def with_rows(self, rows: "list[SiteSensitivity]", order: "list[str]") -> "Sensitivity":
        """A table with more rows, sites in this order."""
        place = {name: i for i, name in enumerate(order)}
        merged = sorted([*self.rows, *rows], key=lambda row: (place[row.name], row.ratio))
        return replace(self, rows=tuple(merged))


def _read_curve(data: Mapping[str, Any]) -> LossCurve:
    """A curve from plain data.

    Raises:
        ValueError: counts and losses that do not belong together, which a damaged file may hold.
    """
    curve = LossCurve(**{**data, "counts": tuple(data["counts"]), "losses": tuple(map(float, data["losses"]))})
    in_order = all(a < b for a, b in zip(curve.counts, curve.counts[1:], strict=False))
    if len(curve.counts) != len(curve.losses) or not in_order or curve.counts[-1:] != (curve.channels,) or curve.counts[0] < 0:
        raise ValueError(f"the losses of {curve.name!r} do not go with its channels")
    return curve


def check_header(table: Sensitivity, wanted: Header, path: Path) -> None:
    """Check that a table is of the measurement wanted, ratios aside, which may be added.

    Raises:
        ArgumentError: the file at ``path`` holds another measurement; the message says what differs.
    """
    for name, value in asdict(wanted).items():
        measured = getattr(table.header, name)
        if measured != value and name != "ratios":
            checksum = name in ("weights", "pixels", "labels")
            difference = f"other {name}" if checksum else f"{name}={measured!r}, not {value!r}"
            raise ArgumentError(f"out {str(path)!r} holds another measurement, with {difference}: choose another file")
