"""What is done with one network, step by step, and how far each step's network is from the student itself."""

import copy
import os
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import ghostify
from benchmarks.harness.results import Row
from benchmarks.packages.networks import Network, images_for
from ghostify.common.calls import forward_hooks
from ghostify.deployment.formats import onnx_session, tensors_of
from ghostify.students.conversion_recipe import recipe_of

FOLD_WITHIN, EXPORT_WITHIN = 1e-5, 1e-4  # of the largest output
ROUNDINGS = 4  # or so many times what the student itself loses to float32
IMAGES = 8
KINDS = {"paper": "depthwise", "absorbed": "absorbed"}
STEPS = ("convert", "calibrate", "fold", "export", "load", "train")


class WrongError(Exception):
    """A step that gave a wrong result without a word."""


@dataclass
class Examination:
    """One network, and the steps of one kind of conversion.

    Attributes:
        network: where it comes from.
        original: the network itself, in evaluation mode.
        kind: of KINDS.
        images: that it is calibrated on.
        test: others, to compare outputs on.
        student: what conversion made of it.
    """

    network: Network
    original: nn.Module
    kind: str
    images: Tensor
    test: Tensor
    student: nn.Module = field(init=False)

    def rows(self) -> Iterator[Row]:
        """A row for each step as soon as it is done, and for its beginning; all end where there is no student."""
        for name in STEPS:
            start = time.process_time()
            yield {"step": name, "result": "began"}
            row = {"step": name} | attempt(getattr(self, name))
            yield row | {"seconds": round(time.process_time() - start, 1)}
            if not hasattr(self, "student"):
                return

    def convert(self) -> Row:
        expected = outputs_of(self.original, self.test)
        state = copy.deepcopy(self.original.state_dict())
        self.student = ghostify.convert(self.original, 2, cheap=KINDS[self.kind], example_input=self.test)
        check(torch.equal, state, self.original.state_dict(), "the original was changed")
        same_form(expected, outputs_of(self.student, self.test))
        report = ghostify.report(self.student, self.test[:1])
        idle = set(never_called(self.original, [row.name for row in report.converted], self.test))
        never = never_called(self.student, [row.name for row in report.converted if row.name not in idle], self.test)
        if never:
            raise WrongError(f"{len(never)} converted layers are never called, such as {never[0]}")
        left: Counter[str] = Counter()
        dense = dense_flops(self.student, report)
        for row in report.rows:
            if row.reason is not None and row.name in dense:
                left[row.reason] += dense[row.name]
        total = sum(dense.values())
        return {
            "sites": len(report.rows),
            "converted": len(report.converted),
            "reached": report.reached,
            "left": {reason: round(flops / total, 4) for reason, flops in left.most_common(6) if flops},
        }

    def calibrate(self) -> Row:
        before = error(self.student, self.original, self.test)
        report = ghostify.calibrate(self.student, self.original, self.images, method="least_squares")
        after = error(self.student, self.original, self.test)
        if not after == after:
            raise WrongError("the outputs are not finite")
        kept = {reason: len(names) for reason, names in report.kept.items()}
        return {"before": before, "after": after, "fitted": len(report.fitted), "kept": kept}

    def fold(self) -> Row:
        folded = ghostify.fold(self.student)
        row = self.compared(lambda x: outputs_of(folded, x), FOLD_WITHIN, (len(self.test),))
        left = Counter(part.reason for part in folded.folding.parts if part.reason)
        return row | {"folded": sum(part.reason is None for part in folded.folding.parts), "kept": dict(left.most_common(4))}

    def export(self) -> Row:
        signal = ended_by(self.exportable) if self.network.ends_exporter else 0
        if signal:
            return {"result": "refused", "text": f"torch's exporter is ended by signal {signal} on the original itself"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.onnx"
            try:
                ghostify.export(self.student, path, example_input=self.test, dynamic_batch=self.network.batches)
            except ghostify.GhostifyError as refusal:
                return {"result": "refused", "text": one_line(refusal), "original": self.exportable()}
            run = onnx_session(path, 1)
            return self.compared(run, EXPORT_WITHIN, (len(self.test), 1) if self.network.batches else (len(self.test),))

    def exportable(self) -> str:
        """Why the original can't be exported as it is; empty where it can."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                ghostify.export(self.original, Path(folder) / "original.onnx", example_input=self.test, fold=False)
            except ghostify.GhostifyError as refusal:
                return one_line(refusal)
        return ""

    def compared(self, run: Callable[[Tensor], list[Tensor]], within: float, sizes: tuple[int, ...]) -> Row:
        """How far a form of the student is from the student, for batches of these sizes."""
        off = max(largest_difference(outputs_of(self.student, x), run(x)) for x in (self.test[:size] for size in sizes))
        row: Row = {"off": float(f"{off:.2g}")}
        if not off <= within:
            row["rounding"] = float(f"{rounding(self.student, self.test):.2g}")
            if not off <= ROUNDINGS * row["rounding"]:
                raise WrongError(f"outputs are off by {off:.2g}, the student from itself by {row['rounding']:.2g}")
        return row

    def load(self) -> Row:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.safetensors"
            ghostify.save(self.student, path)
            loaded = ghostify.load(path, self.network.build)
        off = largest_difference(outputs_of(self.student, self.test), outputs_of(loaded, self.test))
        if off > 0:
            raise WrongError(f"outputs are off by {off:.2g}")
        return {"off": off}

    def train(self) -> Row:
        wanted = gradients(self.original, self.images[:4])
        if isinstance(wanted, str):
            return {"text": f"nor does the original train: {wanted}"}
        got = gradients(self.student, self.images[:4])
        if isinstance(got, str):
            raise WrongError(got)
        idle = {name.rpartition(".")[0] for name, has in wanted.items() if not has}
        without = [name for name, has in got.items() if not has and not name.startswith(tuple(idle))]
        if without:
            raise WrongError(f"{len(without)} of {len(got)} parameters get no gradient, such as {without[0]}")
        return {}


def ended_by(action: Callable[[], object]) -> int:
    """The signal that ends a process in which an action is tried; 0 where none does."""
    process = os.fork()
    if process == 0:
        try:
            action()
        finally:
            os._exit(0)
    status = os.waitpid(process, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def attempt(step: Callable[[], Row]) -> Row:
    """The row of a step: ``ok``, ``refused`` with a sentence, or ``fault`` with what went wrong."""
    try:
        return {"result": "ok"} | step()
    except WrongError as fault:
        return {"result": "fault", "text": str(fault)}
    except ghostify.GhostifyError as refusal:
        return {"result": "refused", "text": one_line(refusal), "trace": traceback.format_exc()}
    except Exception as crash:
        return {"result": "fault", "text": f"{type(crash).__name__}: {one_line(crash)}", "trace": traceback.format_exc()}


def one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def settle(model: nn.Module, images: Tensor) -> None:
    """Norms as after training: scales and shifts of all sizes, and statistics of these images; no parameter is all zeros."""
    generator = torch.Generator().manual_seed(0)
    norms = [m for m in model.modules() if "Norm" in type(m).__name__ and getattr(m, "weight", None) is not None]
    with torch.no_grad():
        for norm in norms:
            if norm.weight.dim() == 1:
                norm.weight.copy_(torch.empty_like(norm.weight).uniform_(0.6, 1.4, generator=generator))
            if getattr(norm, "bias", None) is not None:
                norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator) / 5)
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-4:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 50)
        batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
        momenta = [norm.momentum for norm in batch_norms]
        for norm in batch_norms:
            norm.reset_running_stats()
            norm.momentum = None
        model.train()(images)
        for norm, momentum in zip(batch_norms, momenta, strict=True):
            norm.momentum = momentum
    model.eval()


@torch.no_grad()
def outputs_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that a network returns, in evaluation mode."""
    return tensors_of(model.eval()(x))


def same_form(expected: list[Tensor], actual: list[Tensor]) -> None:
    if [(t.shape, t.dtype) for t in expected] != [(t.shape, t.dtype) for t in actual]:
        raise WrongError("the student's outputs have other shapes or types than the original's")


def largest_difference(expected: list[Tensor], actual: list[Tensor]) -> float:
    """The largest difference of any output, as a share of that output's largest number."""
    same_form(expected, actual)
    return max((difference(one, other) for one, other in zip(expected, actual, strict=True) if one.numel()), default=0.0)


def difference(one: Tensor, other: Tensor) -> float:
    value = float((one.double() - other.double()).abs().max() / one.double().abs().max().clamp_min(1e-12))
    return value if value == value else float("inf")


def error(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    """The squared error of the student's first output, as a share of the teacher's square."""
    one, other = outputs_of(teacher, x)[0].double(), outputs_of(student, x)[0].double()
    return float(f"{(one - other).square().sum() / one.square().sum().clamp_min(1e-24):.3g}")


def rounding(model: nn.Module, x: Tensor) -> float:
    """How far a network is from itself in float64; 0 where it does not run so."""
    try:
        exact = outputs_of(copy.deepcopy(model).double(), x.double())
    except Exception:  # code of any kind
        return 0.0
    return max(difference(one, other) for one, other in zip(exact, outputs_of(model, x), strict=True))


def never_called(model: nn.Module, names: list[str], x: Tensor) -> list[str]:
    called: set[str] = set()
    hooks = ((model.get_submodule(name), lambda *_, name=name: called.add(name)) for name in names)
    with forward_hooks(after=hooks):
        outputs_of(model, x)
    return [name for name in names if name not in called]


def dense_flops(student: nn.Module, report: ghostify.Report) -> dict[str, int]:
    """The FLOPs of the sites that ``reached`` is a share of: dense convolutions, the first aside."""
    recipe = recipe_of(student)
    assert recipe is not None
    return {
        record.name: row.flops_before or 0
        for record, row in zip(recipe.sites, report.rows, strict=True)
        if record.kind == "conv" and not record.first and not record.depthwise
    }


def gradients(model: nn.Module, x: Tensor) -> dict[str, bool] | str:
    """Which parameters get a gradient in training; or why none is computed."""
    model = copy.deepcopy(model).train()
    try:
        leaves = [leaf for leaf in tree_flatten(model(x))[0] if isinstance(leaf, Tensor) and leaf.requires_grad]
        torch.stack([leaf.float().square().mean() for leaf in leaves]).sum().backward()
    except Exception as crash:
        return f"{type(crash).__name__}: {one_line(crash)}"
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    bad = [name for name, grad in grads.items() if grad is not None and not grad.isfinite().all()]
    return f"the gradient of {bad[0]} is not finite" if bad else {name: grad is not None for name, grad in grads.items()}


def check(equal: Callable[[Any, Any], bool], state: dict[str, Tensor], now: dict[str, Tensor], text: str) -> None:
    if not all(equal(value, now[name]) for name, value in state.items()):
        raise WrongError(text)


def examine(network: Network) -> Iterator[Row]:
    """The rows of all steps, for each kind."""
    torch.manual_seed(0)
    original = network.build()
    images, test = images_for(network, IMAGES, 0), images_for(network, 2, 1)
    settle(original, images)
    for kind in KINDS:
        for row in Examination(network, original, kind, images, test).rows():
            yield {"kind": kind} | row
