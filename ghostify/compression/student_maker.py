"""Students of one network for any share of its FLOPs, params or seconds: planned, absorbed, calibrated, distilled."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ..calibration.calibrate import calibrate
from ..common.random_state import undisturbed
from ..conversion.convert import convert_with
from ..conversion.goal import ConversionGoal
from ..conversion.layer_seconds import LayerSeconds
from ..conversion.network_plan import NetworkPlan
from ..conversion.sensitivity_table import Sensitivity
from ..conversion.span_budget import plan_span_budget
from ..conversion.span_losses import losses_of_table
from ..conversion.target import Target
from ..distillation.distill import distill
from ..errors import ArgumentError
from ..graph.find_sites import find_sites, trace_layers
from ..graph.network_spans import find_network_spans
from ..inputs.sources import LabelledData
from ..tasks.task import Task
from .folder import CompressionFolder
from .images import SomeImages
from .search import ExpectedLosses
from .settings import CompressionSettings

MOST = 0.97  # the largest share that a student is made for

SHARES = (0.2, 0.35, 0.5, 0.65, 0.8)  # that are planned to see how losses grow, besides the least and MOST


@dataclass(frozen=True)
class StudentMaker:
    """Makes students of one network.

    Attributes:
        original: the network, in evaluation mode; it is not changed.
        images: that calibrate.
        settings: of the compression.
        table: what spans lose, by one pass of the images.
        seconds: of the original's layers on the runtime; None where latency does not matter.
        train: what students are distilled on; None for no distillation.
        task: how networks of the kind are compared; None for the one that fits.
        folder: where unfinished distillations are.
        note: called with what is going on, in words.
    """

    original: nn.Module
    images: SomeImages
    settings: CompressionSettings
    table: Sensitivity
    seconds: LayerSeconds | None
    train: LabelledData | None
    task: Task | None
    folder: CompressionFolder
    note: Callable[[str], None]

    def converted(self, target: Target) -> nn.Module:
        """The student that is planned for a target, before any calibration.

        Raises:
            ArgumentError: the target is out of reach.
        """
        return convert_with(self.original, self.settings.config, self._goal(target)).eval()

    def finish(self, student: nn.Module, name: str) -> None:
        """Calibrate a student, and distil it where it is to be trained.

        Args:
            student: it is changed.
            name: of the step, for the folder.
        """
        settings = self.settings
        self.note(f"{name}: calibrating")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user knows what there is to say of the images
            calibrate(
                student, self.original, self.images, method=settings.method, seed=settings.seed, max_images=len(self.images)
            )
        if self.train is not None:
            self.note(f"{name}: distilling")
            out = self.folder.file(f"{name}-distillation")
            with undisturbed():
                distill(
                    student,
                    self.original,
                    self.train,
                    recipe=settings.recipe,
                    out=out,
                    resume=out is not None,
                    task=self.task,
                )
        student.eval()

    @cached_property
    def expected(self) -> ExpectedLosses:
        """What students of several shares lose, by the one pass."""
        losses = losses_of_table(self.table)

        def loss(plan: NetworkPlan) -> float:
            gone = [float(losses[one.name][one.kept]) for one in plan.narrowed if one.name in losses]
            return max(sum(gone), 1e-12)

        mild = self._plan(MOST)
        assert mild.budget is not None
        least = min(mild.budget.least / mild.budget.original + 1e-4, MOST)
        shares = [least, *(share for share in SHARES if least < share), MOST]
        expected = [loss(self._plan(share)) for share in shares[:-1]] + [loss(mild)]
        falling = torch.tensor(expected).flip(0).cummax(0).values.flip(0).tolist()
        return ExpectedLosses(tuple(shares), tuple(falling))

    def least(self) -> float:
        """The least share that can be asked of a plan."""
        budget = self._plan(MOST).budget
        assert budget is not None
        return min(budget.least / budget.original + 1e-4, MOST)

    def reached(self, share: float) -> float:
        """The share that the student planned for a share costs by its plan, which is no more."""
        budget = self._plan(share).budget
        assert budget is not None
        return budget.planned / budget.original

    def _plan(self, share: float) -> NetworkPlan:
        model = self.original
        parts = trace_layers(model)
        sites, spans = find_sites(model, parts), find_network_spans(model, parts)
        goal = self._goal(Target(self.settings.metric, share, share=True))
        try:
            return plan_span_budget(model, sites, spans, parts, self.settings.config, goal)
        except ArgumentError as error:
            if share == MOST:  # whatever the limit: there is next to nothing to save
                raise ArgumentError(f"the network has too little that can be made smaller: {error}") from error
            raise

    def _goal(self, target: Target) -> ConversionGoal:
        return ConversionGoal(
            target=target,
            sensitivity=self.table,
            images=None,
            only_if_faster=None,
            example_input=self.images.example,
            progress=False,
            seconds=self.seconds if target.metric == "latency" else None,
        )
