"""One compression, once everything is checked: students are made, judged and timed until one keeps to the limit."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from torch import Tensor, nn

from ..common.costs import count_params, measure
from ..common.files import PlainData
from ..conversion.runtime_timer import Beside, RuntimeTimer
from ..conversion.target import Target
from ..errors import ArgumentError
from .folder import CompressionFolder
from .judge import Judge
from .report import CompressionReport, CompressionResult, CompressionStep, NetworkFigures
from .search import RISK, Built, Judged, best_build, next_build, next_probe
from .settings import CompressionSettings
from .student_maker import MOST, StudentMaker


@dataclass
class CompressionRun:
    """One compression.

    Attributes:
        maker: makes the students.
        judge: compares them with the original; None where no images judge.
        timer: of the runtime; None where latency does not matter.
        x: the input that networks are timed with; None without a runtime.
        folder: what is kept.
        note: called with what is going on, in words.
        steps: so far.
    """

    maker: StudentMaker
    judge: Judge | None
    timer: RuntimeTimer | None
    x: Tensor | None
    folder: CompressionFolder
    note: Callable[[str], None]
    steps: list[CompressionStep]
    students: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def settings(self) -> CompressionSettings:
        return self.maker.settings

    def run(self) -> CompressionResult:
        """The student that keeps to the limit.

        Raises:
            ArgumentError: there is none; the message says what can be had.
        """
        target, max_drop = self.settings.target, self.settings.max_drop
        if max_drop is not None:
            return self._within_drop(max_drop)
        assert target is not None
        if target.metric == "latency":
            return self._within_time(target)
        return self._result(self._made("student", target))

    def _within_drop(self, max_drop: float) -> CompressionResult:
        """The smallest, or fastest, of a few students whose drop is known to be at most so much."""
        assert self.judge is not None
        self.note("planning")
        expected = self.maker.expected
        judged: list[Judged] = []
        best: CompressionStep | None = None
        while (share := next_probe(judged, max_drop, expected)) is not None:
            reached = self.maker.reached(share)
            same = next((one for one in judged if one.reached == reached), None)
            if same is not None:
                judged.append(replace(same, asked=share))
                continue
            name = f"probe-{len({one.reached for one in judged}) + 1}"
            step = self._made(name, Target(self.settings.metric, share, share=True), max_drop)
            assert step.drop_at_most is not None
            judged.append(Judged(share, reached, step.drop_at_most))
            if step.kept and (best is None or _size(step) < _size(best)):
                best = step
            self.students = {name: one for name, one in self.students.items() if best is not None and name == best.step}
        if best is None:
            raise ArgumentError(self._unkept(max_drop))
        return self._result(best)

    def _unkept(self, max_drop: float) -> str:
        """The message for a drop that no student keeps within."""
        mildest = max((step for step in self.steps if step.drop_at_most is not None), key=lambda step: step.share or 0)
        of = {"flops": "FLOPs", "latency": "time"}[self.settings.metric]
        assert self.judge is not None
        return (
            f"max_drop={max_drop:g} is out of reach: the mildest student, planned for {mildest.share or 0:.0%} of the {of}, "
            f"loses {mildest.drop or 0:.4f} on {self.judge.images} images, and up to {mildest.drop_at_most or 0:.4f} for all "
            "that they say; allow more, or judge by more images"
        )

    def _within_time(self, target: Target) -> CompressionResult:
        """The student of a few that takes the time that is wanted, timed beside the original."""
        assert self.maker.seconds is not None
        total = self.maker.seconds.total
        wanted = target.value if target.share else target.value / total
        if wanted >= 1:
            raise ArgumentError(
                f"target latency {target.value * 1e3:.3g}ms is met by the original, which takes {total * 1e3:.3g}ms"
            )
        least = self.maker.least()
        built: list[Built] = []
        while (share := next_build(built, wanted, least, MOST)) is not None:
            step = self._built(f"build-{len(built) + 1}", share, wanted)
            assert step.latency_share is not None
            built.append(Built(share, step.latency_share))
        best = best_build(built, wanted)
        if best is None:
            fastest = min(built, key=lambda one: one.measured)
            raise ArgumentError(
                f"target latency {wanted:.3g} of the original's is out of reach on {self.settings.runtime}: of {len(built)} "
                f"students the fastest takes {fastest.measured:.3g} of it, {fastest.measured * total * 1e3:.3g}ms"
            )
        timed = next(step for step in self.steps if step.share == best.asked)
        step = self._made("student", Target("latency", best.asked, share=True), timed=timed.latency_share)
        return self._result(step)

    def _built(self, name: str, share: float, wanted: float) -> CompressionStep:
        """A student that is timed and nothing else: its weights do not count."""

        def make() -> PlainData:
            start = time.perf_counter()
            self.note(f"{name}: {share:.1%} by the times of layers")
            student = self.maker.converted(Target("latency", share, share=True))
            beside = self._timed(student)
            step = self._step(name, share, student, start)
            return asdict(replace(step, latency_share=beside.share, kept=beside.share <= wanted))

        return self._remembered(name, share, make)

    def _made(self, name: str, target: Target, max_drop: float | None = None, timed: float | None = None) -> CompressionStep:
        """A finished student: judged where images judge, timed where latency matters.

        Args:
            name: of the step.
            target: what it may cost.
            max_drop: what it may lose; None where nothing is said of that.
            timed: its share of the original's time, where that is known.
        """
        share = target.value if target.share else None

        def make() -> PlainData:
            start = time.perf_counter()
            self.note(f"{name}: planning")
            student = self.maker.converted(target)
            self.maker.finish(student, name)
            latency = timed
            if self.timer is not None and latency is None:
                self.note(f"{name}: timing")
                latency = self._timed(student).share
            step = replace(self._step(name, share, student, start), latency_share=latency)
            if self.judge is not None:
                self.note(f"{name}: judging")
                found = self.judge.judge(student, RISK)
                kept = None if max_drop is None else found.most <= max_drop
                step = replace(step, score=found.student, drop=found.drop, drop_at_most=found.most, kept=kept)
            self.folder.keep(name, student)
            self.students[name] = student
            return asdict(replace(step, seconds=time.perf_counter() - start))

        return self._remembered(name, share, make)

    def _remembered(self, name: str, share: float | None, make: Callable[[], PlainData]) -> CompressionStep:
        """A step that an earlier call has done, or that is done now."""
        known = set(CompressionStep.__dataclass_fields__)
        stored = self.folder.remembered(name, make, lambda data: data.keys() == known and data["share"] == share)
        self.steps.append(CompressionStep(**stored))
        return self.steps[-1]

    def _step(self, name: str, share: float | None, student: nn.Module, start: float) -> CompressionStep:
        before, after = self._figures(self.maker.original), self._figures(student)
        return CompressionStep(
            name, time.perf_counter() - start, share, after.params / before.params, after.flops / max(1, before.flops)
        )

    def _timed(self, student: nn.Module) -> Beside:
        assert self.timer is not None
        assert self.x is not None
        return self.timer.beside(self.maker.original, student, self.x)

    def _figures(self, model: nn.Module) -> NetworkFigures:
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        return NetworkFigures(count_params(model), measure(model, self.maker.images.example).flops, size)

    def _result(self, step: CompressionStep) -> CompressionResult:
        """The student of a step, with the report of all of them."""
        original, settings = self.maker.original, self.settings
        device = next(original.parameters()).device
        student = self.students[step.step] if step.step in self.students else self.folder.student(step.step, original)
        before, after = self._figures(original), replace(self._figures(student), score=step.score)
        runtime = None
        if self.timer is not None and self.maker.seconds is not None and step.latency_share is not None:
            total = self.maker.seconds.total
            before, after = replace(before, latency=total), replace(after, latency=total * step.latency_share)
            threads = f"{self.timer.threads} thread{'s' if self.timer.threads > 1 else ''}"
            runtime = f"{self.timer.runtime.name}, batch {settings.batch_size}, {threads}"
        if self.judge is not None:
            before = replace(before, score=self.judge.baseline)
        report = CompressionReport(
            model=type(original).__name__,
            goal=_in_words(settings),
            steps=tuple(self.steps),
            original=before,
            student=after,
            images=len(self.maker.images),
            judging=0 if self.judge is None else self.judge.images,
            measure=None if self.judge is None else self.judge.measure,
            chosen=self.steps.index(step),
            runtime=runtime,
        )
        return CompressionResult(student.to(device).eval(), report)


def _size(step: CompressionStep) -> float:
    """What the smallest student has least of: its share of time where it was timed, else of FLOPs."""
    size = step.flops_share if step.latency_share is None else step.latency_share
    assert size is not None
    return size


def _in_words(settings: CompressionSettings) -> str:
    if settings.max_drop is not None:
        return f"max_drop {settings.max_drop:g}"
    assert settings.target is not None
    return f"target {settings.target.metric} {settings.target.value:g}"
