"""``compress(target={"latency": 0.6})``: what its student takes in a process of its own afterwards.

    python -m benchmarks.compression.latency [--network NAME ...] [--runtime NAME ...] [--runs 5] [--threads 2]

Networks have random weights, on which latency does not depend, and norms that have seen noise; each run has a seed of its own
and times all layers anew. The student is saved, and timed beside the original in a fresh process, batch 1, 224x224. Each run is
a line of results/compress_latency.jsonl; runs that stand there are not run again. For a quiet machine: there a run takes some
three minutes for resnet50 and mobilenet_v2 and six for densenet121.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import run_module, versions_line
from benchmarks.harness.markdown import percent, table
from benchmarks.harness.results import Row, append_line, read_lines
from ghostify.conversion.runtime_timer import RuntimeTimer
from ghostify.deployment.runtimes import runtime_named
from ghostify.deployment.timing import machine

RESULTS = "compress_latency.jsonl"
NETWORKS = ("resnet50", "mobilenet_v2", "densenet121")
RUNTIMES = ("openvino", "onnxruntime")
WANTED = 0.6
CLOSE = 0.05  # of the target: so far the fresh process may be from it


def original(name: str, seed: int) -> tuple[nn.Module, Tensor]:
    """The network with random weights, and the noise that its norms have seen."""
    torch.manual_seed(seed)
    network = ghostify.create_model(f"torchvision/{name}").eval()
    noise = torch.randn(8, 3, 224, 224)
    ghostify.reestimate_norms(network, noise, batch_size=4)
    return network, noise


def measured(network: str, runtime: str, seed: int, threads: int) -> Row:
    model, noise = original(network, seed)
    about = {"network": network, "runtime": runtime, "run": seed, "threads": threads, "wanted": WANTED}
    about |= {"machine": machine(), "about": versions_line()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # so that times of layers are those of this run
        try:
            result = ghostify.compress(
                model,
                noise,
                target={"latency": WANTED},
                runtime=runtime,
                threads=threads,
                seed=seed,
            )
        except ghostify.ArgumentError as error:
            return {**about, "refused": str(error)}
        file = Path(folder) / "student.safetensors"
        ghostify.save(result.student, file)
        options = ("--measure", str(file), "--network", network, "--runtime", runtime, "--seed", str(seed))
        fresh = json.loads(run_module("benchmarks.compression.latency", *options, "--threads", str(threads)))
    report = result.report
    assert report.student.latency is not None
    assert report.original.latency is not None
    return {
        **about,
        "told": round(report.student.latency / report.original.latency, 4),
        "fresh": fresh,
        "flops_share": round(report.student.flops / report.original.flops, 4),
        "builds": sum(step.step.startswith("build") for step in report.steps),
        "seconds": round(report.seconds, 1),
    }


def beside(args: argparse.Namespace) -> dict[str, Any]:
    """The student of a file beside its original: share of time and quartiles."""
    model, noise = original(args.network[0], args.seed)
    timer = RuntimeTimer(runtime_named(args.runtime[0]), args.threads)
    times = timer.beside(model, ghostify.load(args.measure, model), noise[:1])
    return {"share": round(times.share, 4), "low": round(times.low, 4), "high": round(times.high, 4)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtime", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    add_threads(parser, torch.get_num_threads())
    args = parse(parser)
    if args.measure:
        print(json.dumps(beside(args)))
        return
    done = {(row["network"], row["runtime"], row["run"]) for row in read_lines(RESULTS)}
    for seed in range(args.runs):
        for network in args.network:
            for runtime in args.runtime:
                if (network, runtime, seed) not in done:
                    row = measured(network, runtime, seed, args.threads)
                    append_line(RESULTS, row)
                    print(json.dumps(row), flush=True)


def tables() -> dict[str, str]:
    """A line for each network and runtime."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in read_lines(RESULTS):
        groups.setdefault((row["network"], row["runtime"]), []).append(row)
    lines = []
    for (network, runtime), rows in groups.items():
        good = [row for row in rows if "refused" not in row]
        shares = [row["fresh"]["share"] for row in good]
        near = sum(abs(share / WANTED - 1) <= CLOSE for share in shares)
        told = ", ".join(percent(row["told"]) for row in good)
        fresh = ", ".join(map(percent, shares))
        flops = percent(sum(row["flops_share"] for row in good) / len(good)) if good else ""
        seconds = f"{max(row['seconds'] for row in good):.0f}" if good else ""
        lines.append([network, runtime, told, fresh, f"{near} of {len(rows)}", flops, seconds])
    header = ["network", "runtime", "told, of the original's time", "in a fresh process", f"within {CLOSE:.0%} of {WANTED:.0%}"]
    return {"compress_latency": table([*header, "FLOPs", "seconds at most"], lines)}


if __name__ == "__main__":
    main()
