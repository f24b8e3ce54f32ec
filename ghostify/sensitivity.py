"""sensitivity(): what each site costs at each ratio, measured one site at a time while all others are as they were."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from .calibrate import MEMORY
from .checks import whole_number
from .convert import check_model
from .copying import copy_shared
from .errors import ArgumentError, ArgumentTypeError, UnsupportedModelError
from .images import as_calls, peek
from .initialize import make_ghost
from .least_squares import Settings, SiteProblem
from .losses import main_output
from .pair_checks import check_range
from .patterns import lookup
from .plan import GhostConfig, PlannedSite, make_plan
from .progress import site_bar
from .random_state import as_usual
from .sensitivity_result import Header, Sensitivity, SiteSensitivity, check_header
from .site_data import Batch
from .sites import Site, find_sites, is_listed
from .stream import Arguments, Stream
from .tracing import Part, trace
from .walk import UnevenError, batch_size_of, captured

ROUNDS = 0  # for the activation: a rank among sites needs none, and they take most of the time


def sensitivity(
    model: nn.Module,
    images: Any,
    ratios: Sequence[float] = (1.5, 2, 3, 4),
    *,
    cheap: str = "auto",
    dw_size: int = 3,
    labels: Any = None,
    max_images: int = 256,
    batch_size: int = 32,
    outputs: Callable[[Any], Sequence[Tensor]] = main_output,
    out: str | Path | None = None,
    workers: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Sensitivity:
    """Measure what each site loses at each ratio, while all others stay as they are.

    Each site in turn is replaced by a Ghost module that is fitted in closed form to the images, and the network is run to
    its end. The result tells which sites bear much and which little; ``convert(model, target=..., sensitivity=...)``
    gives each its ratio by it.

    Args:
        model: the original network; it is not changed.
        images: as for :func:`ghostify.calibrate`.
        ratios: to be tried, each above 1.
        cheap, dw_size: as for :func:`ghostify.convert`, and to be the same there.
        labels: (N,) classes of the images, for a top-1 as well.
        max_images: images beyond this many are not read.
        batch_size: images at a time.
        outputs: from what the model returns to its class scores, in a list; see :func:`ghostify.losses.main_output`.
        out: a JSON file that is written after each site. If it is there already, only what it lacks is measured.
        workers: processes, each with its share of the sites and of the machine's threads.
        seed: of the positions that wide layers sample.
        progress: show a progress bar.

    Returns:
        For each site and ratio: the relative error of the site's output; the Kullback-Leibler divergence of the model's
        class probabilities, in nats, mean over images (None for a model without class scores); and top-1.

    Raises:
        ArgumentError, ArgumentTypeError: a setting or an image that can't be used, or ``out`` holds another measurement.
        UnsupportedModelError: nothing in the model can be converted.

    Example:
        >>> found = ghostify.sensitivity(teacher, images, progress=True)
        >>> student = ghostify.convert(teacher, target={"flops": 0.5}, cheap="auto", sensitivity=found)
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    check_model(model)
    max_images, batch_size, workers = (
        whole_number(name, value, 1)
        for name, value in (("max_images", max_images), ("batch_size", batch_size), ("workers", workers))
    )
    seed = whole_number("seed", seed, 0) % 2**32
    plans = _plans(model, ratios, cheap, dw_size)
    with as_usual(next(model.parameters()).device), torch.no_grad():
        original = copy_shared(model).eval()
        first, calls = peek(as_calls(images, original, max_images, batch_size))
        check_range(original, first, stacklevel=3)
        held = list(calls)
        scan = Scan(original, held, plans, cheap == "auto", outputs, _classes(labels, held), seed)
        header = Header(
            type(model).__name__, scan.images, tuple(sorted(float(r) for r in ratios)), cheap, dw_size, seed,
            _checksum(original.state_dict().values()), _checksum([args[0] for args, _ in held]),
        )  # fmt: skip
        found = Sensitivity(header, (), scan.top1())
        path = None if out is None else Path(out)
        if path is not None and path.exists():
            found = Sensitivity.load(path)
            check_header(found, header, path)
        left = [name for name in plans if name not in found.sites]
        with site_bar("measuring", len(plans), progress) as advance:
            for name in found.sites:
                advance(name)
            for rows in _measured(scan, left, workers):
                found = found.with_rows(rows, list(plans))
                if path is not None:
                    found.save(path)
                advance(rows[0].name)
    return found


def _plans(model: nn.Module, ratios: Sequence[float], cheap: str, dw_size: int) -> dict[str, dict[float, PlannedSite]]:
    """Sites in execution order, and what becomes of each at each ratio."""
    if isinstance(ratios, (str, bytes)) or not isinstance(ratios, Sequence) or not ratios:
        raise ArgumentTypeError(f"ratios must be a sequence of numbers above 1, not {ratios!r}")
    sites = find_sites(model)
    plans: dict[str, dict[float, PlannedSite]] = {}
    for ratio in sorted(set(ratios)):
        for planned in make_plan(sites, GhostConfig(ratio, dw_size, cheap)):
            if planned.ratio is not None:
                plans.setdefault(planned.site.name, {})[float(ratio)] = planned
    if not plans:
        raise UnsupportedModelError(f"model {type(model).__name__} has no site that can be converted at these ratios")
    return {site.name: plans[site.name] for site in sites if site.name in plans}


def _classes(labels: Any, calls: Sequence[Arguments]) -> list[Tensor] | None:
    """Labels batch by batch."""
    if labels is None:
        return None
    sizes = [len(args[0]) for args, _ in calls]
    made = torch.as_tensor(labels).cpu()
    if made.dim() != 1 or len(made) < sum(sizes) or made.is_floating_point():
        raise ArgumentError(f"labels must be a class for each of the {sum(sizes)} images, not of shape {tuple(made.shape)}")
    return list(made[: sum(sizes)].split(sizes))


def _checksum(tensors: Any) -> int:
    crc = 0
    for tensor in tensors:
        for part in tensor if isinstance(tensor, list) else [tensor]:
            crc = zlib.crc32(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), crc)
    return crc


def _measured(scan: "Scan", names: list[str], workers: int) -> Iterator[list[SiteSensitivity]]:
    """The rows of each site, as they come."""
    if workers == 1:
        yield from scan.run(names)
        return
    import joblib

    # neighbours together, since each worker has to run the network up to its first site
    size = max(1, -(-len(names) // (4 * workers)))
    shares = [names[start : start + size] for start in range(0, len(names), size)]
    tasks = (joblib.delayed(_run)(scan, share) for share in shares)
    for rows in joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(tasks):
        yield from rows


def _run(scan: "Scan", names: list[str]) -> list[list[SiteSensitivity]]:
    with torch.no_grad():
        return list(scan.run(names))


@dataclass
class Scan:
    """Measures sites one at a time on an original that stays as it is.

    Args:
        model: in evaluation mode; a copy whose modules may be exchanged for a while.
        calls: the arguments of a forward pass for each batch.
        plans: what becomes of each site at each ratio.
        auto: the cheap operation is decided by the data.
        outputs: from what the model returns to its class scores.
        labels: of each batch.
        seed: of the positions that are sampled.
    """

    model: nn.Module
    calls: Sequence[Arguments]
    plans: dict[str, dict[float, PlannedSite]]
    auto: bool
    outputs: Callable[[Any], Sequence[Tensor]]
    labels: list[Tensor] | None
    seed: int
    original: list[Tensor | None] | None = None

    @property
    def images(self) -> int:
        return sum(len(args[0]) for args, _ in self.calls)

    def reference(self) -> list[Tensor | None]:
        """Log-probabilities of the original for each batch."""
        if self.original is None:
            self.original = [self._scores(self.model(*args, **kwargs)) for args, kwargs in self.calls]
        return self.original

    def top1(self) -> float | None:
        """Of the original."""
        return self._compare(self.reference())[1]

    def run(self, names: Sequence[str]) -> Iterator[list[SiteSensitivity]]:
        """The rows of each of these sites."""
        left = set(names)
        for part in trace(self.model, is_listed, lambda m: lookup(m) is not None):
            inside = {part.qualified(str(node.target)): node for node in part.graph.nodes if node.op == "call_module"}
            if left.isdisjoint(inside):
                continue
            calls = self.calls if not part.entry else captured(self.model, "", part.entry, self.calls)
            images = sum(batch_size_of(arguments) for arguments in calls)
            stream = Stream(self.model.get_submodule(part.name), part, calls, MEMORY)
            try:
                for node in stream.nodes:
                    name = part.qualified(str(node.target))
                    if node.op == "call_module" and name in left:
                        left.discard(name)
                        yield self._site(name, part, stream, node, images)
                        stream.release()
            finally:
                stream.close()
        for name in sorted(left):
            yield [self._row(name, ratio, planned) for ratio, planned in self.plans[name].items()]

    def _site(self, name: str, part: Part, stream: Stream, node: fx.Node, images: int) -> list[SiteSensitivity]:
        inputs = node.all_input_nodes[0]

        def batches() -> Iterator[Batch]:
            empty = False
            for x, own in stream.run([inputs, node], keep=[inputs, node]):
                empty = empty or not x.numel()
                if not empty:
                    yield Batch(x, own)
            if empty:
                raise UnevenError

        problem: SiteProblem | None = None
        settings = Settings(rounds=ROUNDS, auto=self.auto, seed=self.seed)
        rows: dict[tuple[int, str], SiteSensitivity] = {}
        try:
            # fewest channels first: they allow every cheap operation, so that one pass learns what all need
            for ratio, planned in reversed(self.plans[name].items()):
                if (planned.intrinsic, planned.cheap) in rows:
                    continue
                ghost = make_ghost(planned).eval()
                problem = problem or SiteProblem(planned.site, ghost, batches, images, settings)
                fitted = problem.solve_next(ghost)
                whole = part.whole and not part.entry
                given = (
                    self._through(stream, node, planned.site, fitted.module) if whole else self._beside(planned, fitted.module)
                )
                row = self._row(name, ratio, planned, fitted.after, given)
                rows[planned.intrinsic, planned.cheap] = replace(row, cheap=fitted.module.cheap)
        except UnevenError:
            return [self._row(name, ratio, planned) for ratio, planned in self.plans[name].items()]
        return [replace(rows[p.intrinsic, p.cheap], ratio=ratio) for ratio, p in self.plans[name].items()]

    def _through(self, stream: Stream, node: fx.Node, site: Site, ghost: nn.Module) -> list[Tensor | None]:
        """Scores with the module in place, run from there to the end."""
        inputs, last = node.all_input_nodes[0], _last_node(node, site)
        output = next(n for n in stream.nodes if n.op == "output")
        given = []
        for index in range(len(stream)):
            maps = ghost(stream.batches[index][inputs.name])
            given.append(self._scores(stream.peek(index, output, last, maps)))
        return given

    def _beside(self, planned: PlannedSite, ghost: nn.Module) -> list[Tensor | None]:
        """The same where the graph does not reach to the end: the whole model is run."""
        site = planned.site
        layers = {site.name: ghost, **{name: nn.Identity() for name in (site.norm_name, site.act_name) if name is not None}}
        with _standing_in(self.model, layers):
            return [self._scores(self.model(*args, **kwargs)) for args, kwargs in self.calls]

    def _scores(self, output: Any) -> Tensor | None:
        """Log-probabilities (rows, classes); None where the model gives no class scores."""
        try:
            scores = self.outputs(output)[0]
        except TypeError:
            if self.outputs is not main_output:
                raise
            return None
        return scores.float().movedim(1, -1).flatten(0, -2).log_softmax(1)

    def _row(
        self,
        name: str,
        ratio: float,
        planned: PlannedSite,
        error: float | None = None,
        given: list[Tensor | None] | None = None,
    ) -> SiteSensitivity:
        kl, top1 = self._compare(given) if given is not None else (None, None)
        return SiteSensitivity(name, ratio, planned.intrinsic, planned.cheap, error, kl, top1)

    def _compare(self, given: list[Tensor | None]) -> tuple[float | None, float | None]:
        """Mean divergence from the original, and top-1."""
        wanted = self.reference()
        if any(scores is None for scores in [*given, *wanted]):
            return None, None
        kl, rows, right = 0.0, 0, 0
        for index, (p, q) in enumerate(zip(wanted, given, strict=True)):
            assert p is not None
            assert q is not None
            kl += float((p.exp() * (p - q)).sum(dtype=torch.float64))
            rows += len(p)
            if self.labels is not None:
                right += int((q.argmax(1) == self.labels[index].to(q.device)).sum())
        return max(kl / rows, 0.0), right / rows if self.labels is not None else None


def _last_node(node: fx.Node, site: Site) -> fx.Node:
    """The node after which the network has what a Ghost module at this site gives."""
    waiting = [name for name in (site.norm_name, site.act_name) if name is not None]
    while waiting:
        node = next(iter(node.users))
        if node.op == "call_module" and waiting[0].endswith(str(node.target)):
            waiting.pop(0)
    return node


@contextmanager
def _standing_in(model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
    """Modules in the places of others, for a while."""
    before = {name: model.get_submodule(name) for name in layers}
    try:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        yield
    finally:
        for name, layer in before.items():
            model.set_submodule(name, layer)
