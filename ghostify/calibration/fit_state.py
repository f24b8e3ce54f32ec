"""What the fits of all parts of a network share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..graph.sites import Site
from .report import SiteResult
from .settings import BlockSettings, Settings


@dataclass
class FitState:
    """The two networks, the settings, and the results so far.

    Args:
        student: a copy that may be changed, in evaluation mode.
        teacher: in evaluation mode.
        sites: the teacher's sites that are to be fitted, by name.
        dense: other layers, by name, that may be refitted where what reaches them has changed.
        settings: of the closed form.
        blocks: of the gradient steps; None for the closed form alone.
        memory: bytes of feature maps to hold; the rest goes to a temporary file.
        on_site: called with each result.
        kept: (m,) the teacher's channels that stay of what a narrower layer makes, by its name.
        narrower: names of the layers that got narrower.
        readers: names of those that absorb maps; like sites they have results.
        results: of the sites that are done, by name.
    """

    student: nn.Module
    teacher: nn.Module
    sites: dict[str, Site]
    dense: dict[str, Site]
    settings: Settings
    blocks: BlockSettings | None
    memory: int
    on_site: Callable[[SiteResult], None]
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    narrower: frozenset[str] = frozenset()
    readers: frozenset[str] = frozenset()
    results: dict[str, SiteResult] = field(default_factory=dict)

    def is_changed(self, name: str) -> bool:
        """Whether the layer of this name computes something else than the teacher's."""
        return name in self.sites or name in self.readers

    @property
    def due(self) -> dict[str, Site]:
        """The layers that have results in the end, by name."""
        return {**self.sites, **{name: self.dense[name] for name in sorted(self.readers) if name in self.dense}}

    def record(self, result: SiteResult) -> None:
        """Note what became of a site."""
        self.results[result.name] = result
        self.on_site(result)

    def keep_warm_start(self, site: Site, reason: str) -> None:
        """Note that a site could not be fitted, and why."""
        self.record(SiteResult(site.name, site.kind, reason=reason))
