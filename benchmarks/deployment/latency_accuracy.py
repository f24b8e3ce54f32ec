"""Accuracy after calibration against measured latency, students beside pruned networks of equal FLOPs.

    python -m benchmarks.deployment.latency_accuracy --data DIR --models FILE --imagenet DIR --work DIR [--network NAME]

The folders are those of calibration/accuracy.py. Students: ratios 1.5 to 4, ``cheap="auto"``, ``align=True``, one seed of
images. Pruned: torch-pruning with the importance that did best over these ratios in calibration.jsonl, at its best setting, at
the student's FLOPs, its norms re-estimated with the same images. Each network that was made is kept in DIR (work), so that an
interrupted run goes on; ``--make`` ends there. Then all are folded and timed in turns, in one process. Writes
results/latency_accuracy.json.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ghostify
from benchmarks.calibration.accuracy import candidate, measured
from benchmarks.calibration.accuracy_trials import Trial
from benchmarks.deployment.latency_tables import times_faster
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.drawing import BLOCK, INK, INTRINSIC, LINE, PRUNED, plain, plt, save
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import CIFAR, Networks
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "latency_accuracy.json"
IMPORTANCE = {"resnet18": "l2", "vgg16_bn": "taylor", "resnet56": "l2"}
RATIOS = (1.5, 2, 3, 4)
RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last")
STYLES = {
    "block": ("ghostify, block", {"color": BLOCK}),
    "least_squares": ("ghostify, least_squares", {"color": INTRINSIC}),
    "pruning": ("torch-pruning", {"color": PRUNED, "ls": "--"}),
}


def trials(networks: Networks, network: str) -> Iterator[Trial]:
    for ratio in RATIOS:
        chosen: dict[str, Any] = {"images": networks.few(network), "ratio": ratio}
        yield Trial("tradeoff", network, "auto", **chosen, options={"align": True})
        if network in CIFAR:  # on ImageNet's it takes forty minutes each
            yield Trial("tradeoff", network, "auto", "block", **chosen, options={"align": True})
        yield Trial("tradeoff", network, IMPORTANCE[network], "pruning", **chosen)


def kept(networks: Networks, trial: Trial, file: Path) -> tuple[nn.Module, Row]:
    """The student or the pruned network and how accurate it is, from a file where it was made before."""
    networks.teacher(trial.network)  # makes the classes known that the file names
    if not file.exists():
        result = candidate(networks, trial)
        row = measured(networks, trial, result)
        part = file.with_suffix(".part")
        torch.save({"row": row, "model": result.model}, part)
        part.rename(file)
        print(f"{file.stem}: {row['top1']} (base {row['base']}), {row['seconds']} s", flush=True)
    content = torch.load(file, weights_only=False)  # a network that this script wrote
    return content["model"], content["row"]


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet", "work")
    parser.add_argument("--network", nargs="*", choices=IMPORTANCE, default=list(IMPORTANCE))
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    add_threads(parser, 2)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    for network in args.network:
        models, rows = {"original": networks.teacher(network)}, {}
        for trial in trials(networks, network):
            name = f"{trial.method}, ratio {trial.ratio:g}"
            models[name], rows[name] = kept(networks, trial, args.work / f"{network} {name}.pt")
        results = read_json(RESULTS)
        if args.make or network in results:
            continue
        size = tuple(networks.example(network).shape[1:])
        report = ghostify.latency(models, size, runtimes=RUNTIMES, threads=args.threads, repeats=args.repeats, progress=True)
        print(report, flush=True)
        timings = json.loads(report.to_json())["timings"]
        results[network] = {"rows": rows, "timings": timings, "machine": report.machine, "threads": args.threads}
        write_json(RESULTS, results)


def tables() -> dict[str, str]:
    """Networks of equal FLOPs: how accurate after calibration, and how many times faster."""
    lines, machines = [], set()
    for network, result in read_json(RESULTS).items():
        machines.add(f"{result['threads']} threads, {result['machine']}.")
        timed = {(t["model"], t["runtime"], t["batch_size"]): t for t in result["timings"]}
        for name, row in result["rows"].items():
            flops = f"{timed[name, 'openvino', 1]['flops_ratio']:.2f}"
            cells = [" / ".join(times_faster(timed[name, runtime, size]) for size in (1, 8)) for runtime in RUNTIMES]
            lines.append([network, name, flops, f"{row['base']:.1f}", f"{row['top1']:.1f}", *cells])
    header = ["network", "made by", "times fewer FLOPs", "original, %", "top-1, %", *RUNTIMES]
    return {"latency_accuracy": f"{table(header, lines)}\n\n{' '.join(sorted(machines))}"}


def draw() -> None:
    """Accuracy straight after calibration against measured latency, batch 1."""
    results = read_json(RESULTS)
    height = 3.1 * len(results)
    fig, axes = plt.subplots(len(results), 4, figsize=(12.4, height), layout="constrained", sharey="row", squeeze=False)
    for line, (network, result) in zip(axes, results.items(), strict=True):
        for ax, runtime in zip(line, RUNTIMES, strict=True):
            timed = {t["model"]: t for t in result["timings"] if (t["runtime"], t["batch_size"]) == (runtime, 1)}
            for method, (name, style) in STYLES.items():
                rows = {model: row for model, row in result["rows"].items() if row["method"] == method}
                points = [(timed[model]["latency_ratio"], row["top1"]) for model, row in rows.items()]
                if points:  # in the order of the ratios
                    ax.plot(*zip(*points, strict=True), label=name, **LINE, **style)
            plain(ax, next(iter(result["rows"].values()))["base"])
            ax.axvline(1, color=INK, lw=1, ls=":")
            ax.set(xlabel="times faster", title=runtime)
        line[0].set_ylabel(f"{network}: top-1, %")
    axes[-1, 0].legend(frameon=False, fontsize=9)
    save(fig, "latency_accuracy")


if __name__ == "__main__":
    main()
