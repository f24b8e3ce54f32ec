"""Accuracy after calibration against measured latency, students beside pruned networks of equal FLOPs.

    python -m benchmarks.deployment.latency_accuracy --data DIR --models FILE --imagenet DIR --work DIR [--network NAME]

The folders are those of calibration/accuracy.py, and so are the networks, at 30 to 80 % of the FLOPs, one seed of images:
absorbed ghosts, the budget shared out from one pass; Ghost modules, ``cheap="auto"``, ``align=True``, ratios by sensitivities;
torch-pruning with the importance and setting that did best there, norms re-estimated with the same images. Each network is kept
in DIR (work), where accuracy.py ``--keep DIR`` puts those that it makes, so that an interrupted run goes on; ``--make`` ends
there. Then all are folded and timed in turns, in one process. Writes results/latency_accuracy.json; a network that stands there
with absorbed ghosts is not measured again.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

import ghostify
from benchmarks.calibration.accuracy import kept
from benchmarks.calibration.accuracy_trials import Trial, at_share
from benchmarks.deployment.latency_tables import times_faster
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.drawing import BLOCK, GHOST, INK, INTRINSIC, LINE, PRUNED, plain, plt, save
from benchmarks.harness.markdown import table
from benchmarks.harness.networks import CIFAR, Networks
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "latency_accuracy.json"
NETWORKS = ("resnet18", "vgg16_bn", "resnet56", "mobilenet_v2")
SHARES = (0.8, 0.7, 0.5, 0.4, 0.3)
RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last")
STYLES = {
    "block, absorbed": ("absorbed, block steps", {"color": BLOCK}),
    "least_squares, absorbed": ("absorbed, closed form", {"color": INTRINSIC}),
    "block, auto": ("Ghost modules, block steps", {"color": GHOST}),
    "least_squares, auto": ("Ghost modules, closed form", {"color": GHOST, "ls": ":"}),
    "pruning": ("torch-pruning", {"color": PRUNED, "ls": "--"}),
}


def trials(network: str) -> Iterator[Trial]:
    for share in SHARES:
        for method in ("least_squares", "block"):
            yield at_share("shares", network, "absorbed", method, share=share)
            if network in CIFAR or method != "block":  # on ImageNet's it takes up to an hour each
                aligned = at_share("shares", network, "auto", method, share=share, variant="aligned")
                yield replace(aligned, options={"align": True})
        yield at_share("shares", network, "best", "pruning", share=share)


def kind_of(row: Row) -> str:
    """Which of STYLES a row is drawn in."""
    return "pruning" if row["method"] == "pruning" else f"{row['method']}, {row['arm']}"


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet", "work")
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    add_threads(parser, 2)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    for network in args.network:
        models, rows = {"original": networks.teacher(network)}, {}
        for trial in trials(network):
            name = f"{trial.method}, {trial.arm}, {trial.share:.0%}"
            model, rows[name] = kept(networks, trial, args.work)
            if model is None:  # the share is out of reach
                del rows[name]
            else:
                models[name] = model
        results = read_json(RESULTS)
        if args.make or any(row["arm"] == "absorbed" for row in results.get(network, {"rows": {}})["rows"].values()):
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
            for kind, (name, style) in STYLES.items():
                rows = {model: row for model, row in result["rows"].items() if kind_of(row) == kind}
                points = [(timed[model]["latency_ratio"], row["top1"]) for model, row in rows.items()]
                if points:  # in the order of the FLOPs
                    ax.plot(*zip(*points, strict=True), label=name, **LINE, **style)
            plain(ax, next(iter(result["rows"].values()))["base"])
            ax.axvline(1, color=INK, lw=1, ls=":")
            ax.set(xlabel="times faster", title=runtime)
        line[0].set_ylabel(f"{network}: top-1, %")
    axes[-1, 0].legend(frameon=False, fontsize=9)
    save(fig, "latency_accuracy")


if __name__ == "__main__":
    main()
