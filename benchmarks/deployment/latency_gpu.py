"""Latency on a GPU: dense networks, their students and pruned networks of equal FLOPs, in turns.

    python -m benchmarks.deployment.latency_gpu --work DIR --make [--network NAME ...]   # on any machine, minutes each
    python -m benchmarks.deployment.latency_gpu --work DIR [--network NAME ...] [--compiled NAME ...]

``--make`` keeps the networks of latency.py in DIR, folded and without their weights, which latency does not depend on. Then
each is run with random ones at batch 1, 32 and 256, in fp32 (convolutions in TF32, as torch has it) and bf16, channels last,
as it is and compiled with CUDA graphs. All are compiled first, each network and precision in a process of its own; then one
process at a time has the GPU. Writes results/latency_gpu.json.
"""

import argparse
import copy
import json
import multiprocessing
import statistics
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.deployment.latency import INPUT, NETWORKS, networks
from ghostify.common.costs import measure
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import in_turns, machine

RESULTS = Path(__file__).parents[1] / "results" / "latency_gpu.json"
BATCHES = (1, 32, 256)
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TURN = 0.04  # seconds
MODELS = ("dense", "depthwise", "pruned")


def make(name: str, path: Path) -> None:
    kept = {}
    for key, model in networks(name).items():
        folded = ghostify.fold(model)
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in folded.parameters()}
        kept[key] = {"model": copy.deepcopy(folded, empty), "flops": measure(model, (INPUT,)).flops}
    torch.save(kept, path)


def filled(model: nn.Module) -> nn.Module:
    """With random weights."""
    torch.manual_seed(0)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            weight = torch.empty(p.shape)
            setattr(module, name, nn.Parameter(nn.init.kaiming_normal_(weight) if p.dim() > 1 else weight.zero_(), False))
    return model


def work(path: Path, name: str, precision: str, compiled: bool, repeats: int, compiles: Any, ready: Any, go: Any) -> None:
    """Load and compile, say so, wait for the GPU, time, and give back rows."""
    try:
        torch.set_num_threads(1)
        torch._dynamo.config.cache_size_limit = 64
        kept = torch.load(path, weights_only=False)  # networks that this script wrote
        models = {key: filled(kept[key]["model"]).to(KINDS[precision]) for key in MODELS if key in kept}
        prepared: dict[tuple[str, int], tuple[Tensor, dict[str, Any]]] = {}
        for runtime in ("cuda", "cuda_compile") if compiled else ("cuda",):
            for batch in BATCHES:
                x = RUNTIMES[runtime].placed(torch.randn(batch, *INPUT.shape[1:]).to(KINDS[precision]))
                with compiles:
                    loads = {key: RUNTIMES[runtime].prepare(model, x, 1) for key, model in models.items()}
                    if runtime == "cuda_compile":
                        for load in loads.values():
                            load()(x)
                prepared[runtime, batch] = (x.cpu(), loads)
                del x
        ready.put((name, precision, None))
        go.wait()
        rows = []
        for (runtime, batch), (pixels, loads) in prepared.items():
            seconds = in_turns(loads, RUNTIMES[runtime].placed(pixels), repeats, TURN)
            middle = {key: statistics.median(found) for key, found in seconds.items()}
            for key, found in seconds.items():
                low, _, high = statistics.quantiles(found, n=4, method="inclusive")
                rows.append(
                    {
                        "network": name, "precision": precision, "runtime": runtime, "batch": batch, "model": key,
                        "ms": round(1e3 * middle[key], 4), "low": round(1e3 * low, 4), "high": round(1e3 * high, 4),
                        "times_faster": round(middle["dense"] / middle[key], 3),
                        "flops_ratio": round(kept["dense"]["flops"] / kept[key]["flops"], 3),
                    }
                )  # fmt: skip
        ready.put((name, precision, rows))
    except Exception:
        ready.put((name, precision, traceback.format_exc()))


class Workers:
    """One process for each network and precision."""

    def __init__(self, folder: Path, names: Sequence[str], compiled: Sequence[str], repeats: int):
        context = multiprocessing.get_context("spawn")
        self.ready, self.compiles = context.Queue(), context.Semaphore(8)  # both live as long as the processes
        self.goes = {(name, precision): context.Event() for name in names for precision in KINDS}
        self.processes = [
            context.Process(
                target=work,
                args=(folder / f"{key[0]}.pt", *key, key[0] in compiled, repeats, self.compiles, self.ready, go),
            )
            for key, go in self.goes.items()
        ]
        for process in self.processes:
            process.start()

    def prepare(self) -> None:
        """Wait until all are compiled."""
        for _ in self.processes:
            name, precision, problem = self.ready.get()
            print(name, precision, problem or "ready", flush=True)
            if problem:
                del self.goes[name, precision]

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """One after the other."""
        for go in self.goes.values():
            go.set()
            name, precision, rows = self.ready.get()
            if isinstance(rows, str):
                print(name, precision, rows, flush=True)
            else:
                yield rows
        for process in self.processes:
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--compiled", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.make:
        for name in args.network:
            make(name, args.work / f"{name}.pt")
        return
    workers = Workers(args.work, args.network, args.compiled, args.repeats)
    workers.prepare()
    write(workers, args.repeats)


def write(workers: Workers, repeats: int) -> None:
    found: list[dict[str, Any]] = []
    for rows in workers.rows():
        found += rows
        for row in rows:
            print(*row.values(), flush=True)
        RESULTS.write_text(json.dumps({"machine": machine(), "repeats": repeats, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
