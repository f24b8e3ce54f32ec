"""Latency of dense networks, their students and pruned networks of equal FLOPs, on every runtime, in turns.

    python -m benchmarks.deployment.latency [--network NAME ...] [--forms] [--threads 2] [--repeats 7]

Students: all sites but the stem at ratio 2, calibrated on 8 small images of noise with ``align=True``: latency does not depend
on the weights. Pruned: torch-pruning, L2 norms, each layer at the same share of channels, at no more FLOPs than the student.
All are folded first. Where a student is less than 5 % faster than the original, one is converted anew with
``only_if_faster``. Writes results/latency.json: by the processor's vector instructions, each network's timings, peak memory of
inference and file sizes; a network that stands there is not measured again. ``--forms`` measures ResNet-50 with and without
each step of folding instead, and writes results/latency_forms.json.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

import ghostify
from benchmarks.harness.pruning import Setting, prune
from ghostify.common.costs import count_params, measure
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import LOADS

RESULTS = Path(__file__).parents[1] / "results" / "latency.json"
NETWORKS = ("resnet18", "resnet50", "vgg16_bn", "densenet121", "regnet_y_1_6gf", "efficientnet_b0")
INPUT = torch.zeros(1, 3, 224, 224)
BATCHES = (1, 8)


def networks(name: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    dense = ghostify.create_model(f"torchvision/{name}").eval()
    noise = torch.randn(8, 3, 112, 112)
    ghostify.reestimate_norms(dense, noise, batch_size=4)
    found: dict[str, nn.Module] = {"dense": dense}
    for cheap in ("depthwise", "auto"):
        student = ghostify.convert(dense, 2, cheap=cheap).eval()
        ghostify.calibrate(student, dense, noise, method="least_squares", batch_size=4, align=True)
        ghostify.reestimate_norms(
            student, noise, batch_size=4
        )  # of random weights and noise: else maps grow from layer to layer
        found[cheap] = student
    share = measure(found["depthwise"], (INPUT,)).flops / measure(dense, (INPUT,)).flops
    smaller = prune(dense, INPUT, share, "l2", Setting(normalized=True, most=1.0, everywhere=False))
    return found | ({"pruned": smaller} if smaller is not None else {})


def forms(name: str) -> dict[str, nn.Module]:
    """One student in the forms that it can be run in."""
    torch.manual_seed(0)
    dense = ghostify.create_model(f"torchvision/{name}").eval()
    noise = torch.randn(8, 3, 112, 112)
    ghostify.reestimate_norms(dense, noise, batch_size=4)
    found: dict[str, nn.Module] = {"original": ghostify.fold(dense)}
    for told, align in (("", False), (", aligned", True)):
        student = ghostify.convert(dense, 2).eval()
        ghostify.calibrate(student, dense, noise, method="least_squares", batch_size=4, align=align)
        if not align:
            found["as converted"] = student
        with patch.object(sys.modules["ghostify.deployment.part_folder"], "MapParting"):
            found[f"norms and orders folded{told}"] = ghostify.fold(student)
        found[f"and maps apart{told}"] = ghostify.fold(student)
    return found


def only_faster(dense: nn.Module, rows: list[dict[str, Any]], threads: int, repeats: int) -> list[dict[str, Any]]:
    """Where the student with depthwise ghosts is not clearly faster: what ``only_if_faster`` makes of it."""
    found = []
    for row in rows:
        if row["model"] != "depthwise" or row["seconds"] is None or row["latency_ratio"] >= 1.05:
            continue
        shape = (row["batch_size"], *INPUT.shape[1:])
        told = {"runtime": row["runtime"], "batch_size": row["batch_size"]}
        try:
            student = ghostify.convert(dense, 2, only_if_faster=row["runtime"], example_input=shape, progress=True)
        except ghostify.UnsupportedModelError:
            found.append({**told, "converted": 0, "flops_ratio": 1.0, "latency_ratio": 1.0})  # nothing is faster: the original
            continue
        again = ghostify.latency(
            {"dense": dense, "student": student}, shape[1:],
            runtimes=[row["runtime"]], batch_sizes=[row["batch_size"]], threads=threads, repeats=4 * repeats,
        ).timings[1]  # fmt: skip
        converted = sum(r.reason is None for r in ghostify.report(student, shape).rows)
        found.append({**told, "converted": converted, "flops_ratio": again.flops_ratio, "latency_ratio": again.latency_ratio})
        print(found[-1], flush=True)
    return found


def memory(model: nn.Module, runtime: str, threads: int) -> float:
    """MiB that preparing and running a folded network adds to a process at its peak; in a process of its own, on Linux."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(model, path)
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.deployment.latency", "--probe", str(path), runtime, "--threads", str(threads)],
            capture_output=True,
            text=True,
        )
    if told.returncode:
        raise RuntimeError(f"{runtime}: {told.stderr[-500:]}")
    return float(told.stdout.split()[-1])


def probe(path: str, runtime: str, threads: int) -> None:
    torch.set_num_threads(threads)
    model = ghostify.fold(torch.load(path, weights_only=False))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    run = RUNTIMES[runtime].prepare(model, INPUT, threads)()
    for _ in range(3):
        run(INPUT)
    print(resident("VmHWM") - before)


def resident(kind: str) -> float:
    """MiB, now (VmRSS) or at the peak (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) / 1024


def sizes(model: nn.Module) -> dict[str, float]:
    """MB of each file."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".onnx", ".pt2", ".xml"):
            path = ghostify.export(model, Path(folder) / f"model{suffix}", example_input=INPUT)
            files = [path, path.with_suffix(".bin")] if suffix == ".xml" else [path]
            found[suffix[1:]] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
    return found


def measured(name: str, threads: int, repeats: int) -> dict[str, Any]:
    models = networks(name)
    report = ghostify.latency(models, (3, 224, 224), batch_sizes=BATCHES, threads=threads, repeats=repeats, progress=True)
    print(report, flush=True)
    rows = json.loads(report.to_json())["timings"]
    usable = [runtime for runtime in RUNTIMES if RUNTIMES[runtime].missing() is None]
    return {
        "rows": rows, "machine": report.machine, "threads": threads, "loads": LOADS, "python": platform.python_version(),
        "params": {key: count_params(model) for key, model in models.items()},
        "only_if_faster": only_faster(models["dense"], rows, threads, repeats),
        "memory_mib": {key: {r: memory(models[key], r, threads) for r in usable} for key in ("dense", "depthwise")},
        "file_mb": {key: sizes(model) for key, model in models.items()},
        "folding": {key: ghostify.fold(model).folding.summary() for key, model in models.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        probe(*args.probe, args.threads)
        return
    torch.set_num_threads(args.threads)
    if args.forms:
        report = ghostify.latency(
            forms("resnet50"), (3, 224, 224), batch_sizes=BATCHES, threads=args.threads, repeats=args.repeats,
            fold=False, progress=True,
        )  # fmt: skip
        print(report)
        told = {"rows": json.loads(report.to_json())["timings"], "machine": report.machine, "threads": args.threads}
        RESULTS.with_name("latency_forms.json").write_text(json.dumps(told, indent=1) + "\n")
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    mine = found.setdefault(torch.backends.cpu.get_cpu_capability(), {})
    for name in args.network:
        if name not in mine:
            mine[name] = measured(name, args.threads, args.repeats)
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
