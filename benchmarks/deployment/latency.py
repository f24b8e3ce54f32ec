"""Latency of dense networks, their students and pruned networks of equal FLOPs, on every runtime, in turns.

    python -m benchmarks.deployment.latency [--network NAME ...] [--threads 2] [--repeats 7]

Latency does not depend on the weights, which are random. Students: absorbed ghosts at half the FLOPs; Ghost modules of
depthwise and of ``cheap="auto"`` ghosts, all sites but the stem at ratio 2, calibrated on 8 small images of noise with
``align=True``. Pruned: torch-pruning, L2 norms, each layer at the same share of channels, at no more FLOPs than the absorbed
student. All are folded first. Where the student with depthwise ghosts is less than 5 % faster than the original, one is
converted anew with ``only_if_faster``; ``--brief`` leaves that out, and memory and file sizes. Writes results/latency.json:
by the processor's vector instructions, each network's timings, peak memory of inference and file sizes; a network that stands
there is not measured again.
"""

import argparse
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ghostify
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import forget_peak, resident_mib, run_module
from benchmarks.harness.pruning import Setting, prune
from benchmarks.harness.results import Row, read_json, write_json
from ghostify.common.costs import count_params, measure
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import LOADS

RESULTS = "latency.json"
NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "mobilenet_v2", "regnet_y_1_6gf", "efficientnet_b0")
SHARE = 0.5
INPUT = torch.zeros(1, 3, 224, 224)
BATCHES = (1, 8)


def dense_network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The original with random weights, and the noise that its norms have seen."""
    torch.manual_seed(0)
    dense = ghostify.create_model(f"torchvision/{name}").eval()
    noise = torch.randn(8, 3, 112, 112)
    ghostify.reestimate_norms(dense, noise, batch_size=4)
    return dense, noise


def networks(name: str) -> dict[str, nn.Module]:
    dense, noise = dense_network(name)
    absorbed = ghostify.convert(dense, target={"flops": SHARE}, cheap="absorbed", example_input=INPUT).eval()
    ghostify.reestimate_norms(absorbed, noise, batch_size=4)
    models: dict[str, nn.Module] = {"dense": dense, "absorbed": absorbed}
    for cheap in ("depthwise", "auto"):
        student = ghostify.convert(dense, 2, cheap=cheap).eval()
        ghostify.calibrate(student, dense, noise, method="least_squares", batch_size=4, align=True)
        # with random weights and noise maps would else grow from layer to layer
        ghostify.reestimate_norms(student, noise, batch_size=4)
        models[cheap] = student
    share = measure(absorbed, (INPUT,)).flops / measure(dense, (INPUT,)).flops
    smaller = prune(dense, INPUT, share, "l2", Setting(normalized=True, most=1.0, everywhere=False))
    return models | ({"pruned": smaller} if smaller is not None else {})


def only_faster(dense: nn.Module, rows: list[Row], threads: int, repeats: int) -> list[Row]:
    """Where the student with depthwise ghosts is not clearly faster: what ``only_if_faster`` makes of it."""
    results = []
    for row in rows:
        if row["model"] != "depthwise" or row["seconds"] is None or row["latency_ratio"] >= 1.05:
            continue
        results.append(converted_if_faster(dense, row["runtime"], row["batch_size"], threads, repeats))
        print(results[-1], flush=True)
    return results


def converted_if_faster(dense: nn.Module, runtime: str, batch_size: int, threads: int, repeats: int) -> Row:
    shape = (batch_size, *INPUT.shape[1:])
    about = {"runtime": runtime, "batch_size": batch_size}
    try:
        student = ghostify.convert(dense, 2, only_if_faster=runtime, example_input=shape, progress=True)
    except ghostify.UnsupportedModelError:  # nothing is faster: the original
        return {**about, "converted": 0, "flops_ratio": 1.0, "latency_ratio": 1.0}
    timing = ghostify.latency(
        {"dense": dense, "student": student},
        shape[1:],
        runtimes=[runtime],
        batch_sizes=[batch_size],
        threads=threads,
        repeats=4 * repeats,
    ).timings[1]
    converted = sum(site.reason is None for site in ghostify.report(student, shape).rows)
    return {**about, "converted": converted, "flops_ratio": timing.flops_ratio, "latency_ratio": timing.latency_ratio}


def memory(model: nn.Module, runtime: str, threads: int) -> float:
    """MiB that preparing and running a folded network adds to a process at its peak; in a process of its own, on Linux."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(model, path)
        printed = run_module("benchmarks.deployment.latency", "--probe", str(path), runtime, "--threads", str(threads))
    return float(printed.split()[-1])


def probe(path: str, runtime: str, threads: int) -> None:
    model = ghostify.fold(torch.load(path, weights_only=False))
    forget_peak()
    before = resident_mib("VmRSS")
    run = RUNTIMES[runtime].prepare(model, INPUT, threads)()
    for _ in range(3):
        run(INPUT)
    print(resident_mib("VmHWM") - before)


def sizes(model: nn.Module) -> dict[str, float]:
    """MB of each file."""
    megabytes = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".onnx", ".pt2", ".xml"):
            path = ghostify.export(model, Path(folder) / f"model{suffix}", example_input=INPUT)
            files = [path, path.with_suffix(".bin")] if suffix == ".xml" else [path]
            megabytes[suffix[1:]] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
    return megabytes


def measured(name: str, threads: int, repeats: int, brief: bool) -> dict[str, Any]:
    models = networks(name)
    report = ghostify.latency(models, (3, 224, 224), batch_sizes=BATCHES, threads=threads, repeats=repeats, progress=True)
    print(report, flush=True)
    rows = json.loads(report.to_json())["timings"]
    result = {
        "rows": rows,
        "machine": report.machine,
        "threads": threads,
        "loads": LOADS,
        "python": platform.python_version(),
        "params": {key: count_params(model) for key, model in models.items()},
        "folding": {key: ghostify.fold(model).folding.summary() for key, model in models.items()},
    }
    if brief:
        return result
    usable = [runtime for runtime in RUNTIMES if RUNTIMES[runtime].missing() is None]
    return {
        **result,
        "only_if_faster": only_faster(models["dense"], rows, threads, repeats),
        "memory_mib": {key: {r: memory(models[key], r, threads) for r in usable} for key in ("dense", "absorbed", "depthwise")},
        "file_mb": {key: sizes(model) for key, model in models.items()},
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    add_threads(parser, 2)
    args = parse(parser)
    if args.probe:
        probe(*args.probe, args.threads)
        return
    results = read_json(RESULTS)
    of_processor = results.setdefault(torch.backends.cpu.get_cpu_capability(), {})
    for name in args.network:
        before = of_processor.get(name, {})
        if "absorbed" not in before.get("params", ()):
            of_processor[name] = before | measured(name, args.threads, args.repeats, args.brief)
            write_json(RESULTS, results)


if __name__ == "__main__":
    main()
