"""Latency on a GPU: dense networks, their students and pruned networks of equal FLOPs, in turns.

    python -m benchmarks.deployment.latency_gpu --work DIR --make [--network NAME ...]   # on any machine, minutes each
    python -m benchmarks.deployment.latency_gpu --work DIR [--network NAME ...] [--compiled NAME ...]

``--make`` keeps the networks of latency.py in DIR, folded and without their weights, which latency does not depend on. Then
each is run with random ones at batch 1, 32 and 256, in fp32 (convolutions in TF32, as torch has it) and bf16, channels last,
as it is and compiled with CUDA graphs. All are compiled first, each network and precision in a process of its own; then one
process at a time has the GPU. Writes results/latency_gpu.json.
"""

import copy
import multiprocessing
import statistics
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.deployment.latency import INPUT, NETWORKS, networks
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json, write_json
from ghostify.common.costs import measure
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import in_turns, machine

RESULTS = "latency_gpu.json"
BATCHES = (1, 32, 256)
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TURN = 0.04  # seconds
MODELS = ("dense", "depthwise", "pruned")


@dataclass(frozen=True)
class Task:
    """What one process times."""

    file: Path
    network: str
    precision: str
    compiled: bool
    repeats: int


@dataclass(frozen=True)
class Signals:
    """How processes wait for each other; all of multiprocessing, which has no types for them."""

    ready: Any  # a queue: (network, precision, None when all is compiled, then rows, or the text of an error)
    compiles: Any  # a semaphore: so many compile at the same time
    go: Any  # an event: the GPU is free


@dataclass(frozen=True)
class Prepared:
    """The networks on one runtime at one batch size; ``images`` stand on the CPU until their turn."""

    runtime: str
    batch: int
    images: Tensor
    loads: dict[str, Callable[[], Any]]


def make(name: str, path: Path) -> None:
    content = {}
    for key, model in networks(name).items():
        folded = ghostify.fold(model)
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in folded.parameters()}
        content[key] = {"model": copy.deepcopy(folded, empty), "flops": measure(model, (INPUT,)).flops}
    torch.save(content, path)


def filled(model: nn.Module) -> nn.Module:
    """With random weights."""
    torch.manual_seed(0)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            weight = torch.empty(p.shape)
            setattr(module, name, nn.Parameter(nn.init.kaiming_normal_(weight) if p.dim() > 1 else weight.zero_(), False))
    return model


def work(task: Task, signals: Signals) -> None:
    """Load and compile, say so, wait for the GPU, time, and give back rows."""
    try:
        torch.set_num_threads(1)
        torch._dynamo.config.cache_size_limit = 64
        content = torch.load(task.file, weights_only=False)  # networks that this script wrote
        models = {key: filled(content[key]["model"]).to(KINDS[task.precision]) for key in MODELS if key in content}
        flops = {key: content[key]["flops"] for key in models}
        prepared = list(prepare(models, task, signals))
        signals.ready.put((task.network, task.precision, None))
        signals.go.wait()
        rows = [row for each in prepared for row in timed(each, task, flops)]
        signals.ready.put((task.network, task.precision, rows))
    except Exception:
        signals.ready.put((task.network, task.precision, traceback.format_exc()))


def prepare(models: dict[str, nn.Module], task: Task, signals: Signals) -> Iterator[Prepared]:
    for runtime in ("cuda", "cuda_compile") if task.compiled else ("cuda",):
        for batch in BATCHES:
            x = RUNTIMES[runtime].placed(torch.randn(batch, *INPUT.shape[1:]).to(KINDS[task.precision]))
            with signals.compiles:
                loads = {key: RUNTIMES[runtime].prepare(model, x, 1) for key, model in models.items()}
                if runtime == "cuda_compile":
                    for load in loads.values():
                        load()(x)
            yield Prepared(runtime, batch, x.cpu(), loads)


def timed(prepared: Prepared, task: Task, flops: dict[str, int]) -> Iterator[Row]:
    x = RUNTIMES[prepared.runtime].placed(prepared.images)
    seconds = in_turns(prepared.loads, x, task.repeats, TURN)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    for key, values in seconds.items():
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        yield {
            "network": task.network,
            "precision": task.precision,
            "runtime": prepared.runtime,
            "batch": prepared.batch,
            "model": key,
            "ms": round(1e3 * medians[key], 4),
            "low": round(1e3 * low, 4),
            "high": round(1e3 * high, 4),
            "times_faster": round(medians["dense"] / medians[key], 3),
            "flops_ratio": round(flops["dense"] / flops[key], 3),
        }


class Workers:
    """One process for each network and precision."""

    def __init__(self, folder: Path, names: Sequence[str], compiled: Sequence[str], repeats: int):
        context = multiprocessing.get_context("spawn")
        self.ready, compiles = context.Queue(), context.Semaphore(8)
        self.signals = {
            (name, precision): Signals(self.ready, compiles, context.Event()) for name in names for precision in KINDS
        }
        self.processes = []
        for (name, precision), signals in self.signals.items():
            task = Task(folder / f"{name}.pt", name, precision, name in compiled, repeats)
            self.processes.append(context.Process(target=work, args=(task, signals)))
            self.processes[-1].start()

    def prepare(self) -> None:
        """Wait until all are compiled."""
        for _ in self.processes:
            name, precision, problem = self.ready.get()
            print(name, precision, problem or "ready", flush=True)
            if problem:
                del self.signals[name, precision]

    def rows(self) -> Iterator[list[Row]]:
        """One after the other."""
        for signals in self.signals.values():
            signals.go.set()
            name, precision, rows = self.ready.get()
            if isinstance(rows, str):
                print(name, precision, rows, flush=True)
            else:
                yield rows
        for process in self.processes:
            process.join()


def main() -> None:
    parser = argument_parser(__doc__, "work")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--compiled", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--repeats", type=int, default=10)
    args = parse(parser)
    if args.make:
        for name in args.network:
            make(name, args.work / f"{name}.pt")
        return
    workers = Workers(args.work, args.network, args.compiled, args.repeats)
    workers.prepare()
    done: list[Row] = []
    for rows in workers.rows():
        done += rows
        for row in rows:
            print(*row.values(), flush=True)
        write_json(RESULTS, {"machine": machine(), "repeats": args.repeats, "rows": done})


def tables() -> dict[str, str]:
    """Original over student, and over the pruned network, on a GPU; nothing where there was none to measure on."""
    results = read_json(RESULTS)
    if not results:
        return {}
    timings = {(r["network"], r["precision"], r["runtime"], r["batch"], r["model"]): r for r in results["rows"]}
    lines = []
    for network in dict.fromkeys(row["network"] for row in results["rows"]):
        for precision in KINDS:
            for runtime, name in (("cuda", "eager"), ("cuda_compile", "compiled, CUDA graphs")):
                of_batches = [
                    {model: timings.get((network, precision, runtime, batch, model)) for model in MODELS} for batch in BATCHES
                ]
                cells = [cell(rows) for rows in of_batches]
                if any(cells):
                    flops = f"{timings[network, precision, runtime, 1, 'depthwise']['flops_ratio']:.2f}"
                    lines.append([network, precision, name, flops, *cells])
    header = ["network", "precision", "run", "times fewer FLOPs", *(f"batch {batch}" for batch in BATCHES)]
    return {"latency_gpu": f"{table(header, lines)}\n\n{results['machine']}."}


def cell(rows: dict[str, Row | None]) -> str:
    """Milliseconds of the original, and how many times faster the others are."""
    dense = rows["dense"]
    times = " / ".join(f"{row['times_faster']:.2f}" for model, row in rows.items() if row and model != "dense")
    return f"{dense['ms']:.2f} ms: {times}" if dense and times else ""


if __name__ == "__main__":
    main()
