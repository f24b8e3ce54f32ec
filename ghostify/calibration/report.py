"""The report of a calibration, site by site."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from ..common.report import ReportBase, TextTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class SiteResult:
    """What became of one site.

    Attributes:
        name: qualified name of the layer.
        kind: ``"conv"`` or ``"linear"``.
        cheap: the cheap operation; ``"absorbed"`` for a layer that absorbs maps; empty for fully connected layers
            of smaller rank.
        before, after: the squared error of its output, relative to the variance of what the teacher asks of it, on the
            calibration images: with the warm start (the absorbed filters) and with the closed form, both on the same input. A
            branch is measured against what its shortcut lacks, which can be out of its reach. None where the warm start was
            kept, for ``reason``.
        note: what should be known of the fit.
        reason: why the warm start was kept; None where the site was fitted.
    """

    name: str
    kind: str
    cheap: str = ""
    before: float | None = None
    after: float | None = None
    note: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class CalibrationReport(ReportBase):
    """What :func:`ghostify.calibrate` did.

    Attributes:
        model: class name.
        method: ``"least_squares"`` or ``"block"``.
        images: how many images were used.
        seconds: how long the calibration took.
        sites: one result for each site, in the order of the recipe.
        notes: what should be known of the images.
    """

    index = "name"

    model: str
    method: str
    images: int
    seconds: float
    sites: tuple[SiteResult, ...]
    notes: tuple[str, ...]

    @property
    def fitted(self) -> list[SiteResult]:
        """The sites whose warm start was replaced."""
        return [site for site in self.sites if site.reason is None]

    @property
    def kept(self) -> dict[str, list[str]]:
        """Names of the sites that kept their warm start, by reason."""
        reasons: dict[str, list[str]] = {}
        for site in self.sites:
            if site.reason is not None:
                reasons.setdefault(site.reason, []).append(site.name)
        return reasons

    @property
    def before(self) -> float | None:
        """Mean relative error of the fitted sites before the fit."""
        return _mean([site.before for site in self.fitted])

    @property
    def after(self) -> float | None:
        """Mean relative error of the fitted sites after the fit."""
        return _mean([site.after for site in self.fitted])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The relative error of each fitted site before and after, in execution order.

        Args:
            ax: axes to draw into; a new figure otherwise.
        """
        from ..common.figures import paired_dots

        return paired_dots(
            [site.before or 0.0 for site in self.fitted],
            [site.after or 0.0 for site in self.fitted],
            ("warm start", "least squares"),
            title=f"{self.model}: {len(self.fitted)} sites, {self.images} images",
            ylabel="relative error",
            ax=ax,
        )

    def summary(self) -> str:
        """The totals in a few lines."""
        fitted = f"{len(self.fitted)} of {len(self.sites)} sites fitted to {self.images} images in {self.seconds:.1f} s"
        lines = [f"{self.model}: {fitted}"]
        if self.before is not None and self.after is not None:
            lines.append(f"mean relative error of a site {self.before:.3f} → {self.after:.3f}")
        lines += [f"warm start kept by {_first_names(names)}: {reason}" for reason, names in self.kept.items()]
        return "\n".join([*lines, *self.notes])

    def _records(self) -> Sequence[Mapping[str, object]]:
        return [asdict(site) for site in self.sites]

    def _columns(self) -> Sequence[str]:
        return [field.name for field in fields(SiteResult)]

    def _table(self) -> TextTable:
        rows = []
        for site in self.sites:
            errors = ("" if error is None else f"{error:.3f}" for error in (site.before, site.after))
            rows.append([site.name, site.cheap, *errors, site.note or site.reason or ""])
        return TextTable(("site", "cheap", "before", "after", "note"), rows, right=(2, 3))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
