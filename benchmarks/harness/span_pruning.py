"""torch-pruning kept to the channels that absorbed ghosts may take, so that its choice and our refit can be told apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.pruning import Setting, copy_with_gradients, largest_within, pruner
from ghostify.common.costs import measure
from ghostify.graph.spans import Span


@dataclass(frozen=True)
class PrunedSpans:
    """A network that torch-pruning has narrowed, and the channels that it left in each span, by the span's first maker."""

    model: nn.Module
    kept: dict[str, Tensor]


@dataclass(frozen=True)
class SpanPruner:
    """torch-pruning on some spans of a network that `benchmarks.harness.pruning.informed` has made ready."""

    model: nn.Module
    spans: Sequence[Span]
    example: Tensor
    importance: str

    def to_share(self, share: float, setting: Setting) -> PrunedSpans | None:
        """At most this share of the FLOPs, by torch-pruning's own widths; None where no pruning ratio reaches it."""
        noted: dict[int, PrunedSpans] = {}

        def pruned_by(ratio: float) -> nn.Module:
            pruned = self.once(setting, pruning_ratio=ratio)
            noted[id(pruned.model)] = pruned
            return pruned.model

        goal = share * measure(self.model, (self.example,)).flops
        best = largest_within(goal, pruned_by, lambda model: measure(model, (self.example,)).flops, halvings=12)
        return None if best is None else noted[id(best)]

    def to_counts(self, counts: dict[str, int], normalized: bool) -> PrunedSpans:
        """Exactly so many channels of each span, by the span's first maker."""
        setting = Setting(normalized, most=1.0, everywhere=False)
        ratios = {span.makers[0]: 1 - (counts[span.makers[0]] + 0.5) / span.channels for span in self.spans}
        return self.once(setting, pruning_ratio=0.0, by_maker={name: ratio for name, ratio in ratios.items() if ratio > 0})

    def once(self, setting: Setting, by_maker: dict[str, float] | None = None, **ratios: Any) -> PrunedSpans:
        model = copy_with_gradients(self.model)
        modules = dict(model.named_modules())
        if by_maker is not None:
            ratios["pruning_ratio_dict"] = {modules[name]: ratio for name, ratio in by_maker.items()}
        tool = pruner(model, self.example, self.importance, setting, self.ignored(modules), **ratios)
        names = {module: name for name, module in modules.items()}
        gone: dict[str, list[int]] = {}
        for group in tool.step(interactive=True):
            for dependency, channels in group:
                layer = dependency.target.module
                if layer in names and tool.DG.is_out_channel_pruning_fn(dependency.handler):
                    gone[names[layer]] = channels
            group.prune()
        model.zero_grad()
        return PrunedSpans(model, {span.makers[0]: kept(span, gone.get(span.makers[0], [])) for span in self.spans})

    def ignored(self, modules: dict[str, nn.Module]) -> list[nn.Module]:
        """The layers whose outputs stay: all but those that make or carry the channels of the spans."""
        narrowed = {name for span in self.spans for name in (*span.makers, *(use.target for use in span.carriers))}
        return [m for name, m in modules.items() if isinstance(m, (nn.Conv2d, nn.Linear)) and name not in narrowed]


def kept(span: Span, gone: list[int]) -> Tensor:
    """(m,) the channels of a span that stay, in increasing order."""
    mask = torch.ones(span.channels, dtype=torch.bool)
    mask[gone] = False
    return mask.nonzero().flatten()
