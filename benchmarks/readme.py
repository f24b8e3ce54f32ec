"""Write the figures in benchmarks/results/ into the README and docs/, between the comments that name them.

python -m benchmarks.readme           # write
python -m benchmarks.readme --check   # exit code 1 if they say anything else
"""

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def paper() -> str:
    rows = [
        [
            row["model"], str(row["ratio"]),
            f"{row['params_before'] / 1e6:.2f} → {row['params_after'] / 1e6:.2f} M",
            f"{row['flops_before'] / 1e6:,.1f} → {row['flops_after'] / 1e6:,.1f} M",
        ]
        for row in load("paper.json")["rows"]
    ]  # fmt: skip
    return table(["network", "ratio", "params", "FLOPs"], rows)


def zoo() -> str:
    with (RESULTS / "zoo.csv").open(newline="") as file:
        models = list(csv.DictReader(file))
    rows, short = [], []
    for library in ("timm", "torchvision"):
        mine = [row for row in models if row["model"].startswith(library)]
        converted = [row for row in mine if row["status"] == "converted"]
        equal = [row for row in converted if row["structure_equal"] == row["shapes_equal"] == "True"]
        mostly = [row for row in mine if row["mostly_convolution"] == "True"]
        low = [row for row in mostly if not row["reached"] or float(row["reached"]) < 0.95]
        short += low
        nothing = sum(row["status"] == "nothing" for row in mine)
        errors = sum(row["status"] == "error" for row in mine)
        counts = [len(mine), len(converted), len(equal), nothing, errors, len(mostly), len(mostly) - len(low)]
        rows.append([library, *map(str, counts)])
    header = [
        "library", "models", "converted", "outputs of equal structure and shape", "nothing to convert", "errors",
        "mostly convolutions", "of those, 95 % of dense-convolution FLOPs reached",
    ]  # fmt: skip
    lines = [
        table(header, rows),
        "",
        '"Nothing to convert" are networks whose only convolution is the first. Short of 95 %:',
        "",
    ]
    for row in short:
        counts = json.loads(row["skipped"] or "{}")
        plain = ("first convolution", "depthwise", "works on a globally")
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts.items() if not reason.startswith(plain))
        lines.append(f"- {row['model']}: {float(row['reached'] or 0):.1%} ({reasons or row['reason']})")
    return "\n".join(lines)


def warm_start() -> str:
    rows = [
        [
            row["model"], row["setting"], f"{row['flops_share']:.1%}", f"{row['base']:.2f}",
            f"{row['after_conversion']:.2f}", f"{row['norms_reestimated']:.2f}",
        ]
        for row in load("warm_start.json")["rows"]
    ]  # fmt: skip
    return table(["network", "setting (ratio 2)", "FLOPs", "original, %", "converted, %", "norms re-estimated, %"], rows)


def speed() -> str:
    rows = [
        [
            row["model"], f"{row['ghostify_s']:.2f} s", f"{row['ghostify_inplace_s']:.2f} s",
            f"{row['ghostify_random_init_s']:.2f} s", f"{row['torch_pruning_s']:.2f} s",
            f"{row['times_faster']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})", f"{row['extra_memory_over_model']:.1f}",
        ]
        for row in load("convert_speed.json")["rows"]
    ]  # fmt: skip
    header = [
        "model",
        "ghostify",
        "in place",
        "random init",
        "torch-pruning",
        "times faster (range)",
        "peak extra memory / model",
    ]
    return table(header, rows)


NETWORKS = ("resnet56", "vgg16_bn", "resnet18", "mobilenet_v2")


def trials() -> list[Any]:
    """Of the calibration benchmark."""
    return [json.loads(line) for line in (RESULTS / "calibration.jsonl").read_text().splitlines()]


def calibration() -> str:
    """Mean over seeds of the images, and the range."""
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for row in trials():
        images = 256 if row["network"] in ("resnet56", "vgg16_bn") else 250
        if row["ratio"] == 2 and not row["variant"] and row["images"] == images:
            groups.setdefault((row["network"], row["method"], row["arm"]), []).append(row)
    arms = [("block", "auto"), *(("least_squares", arm) for arm in ("auto", "depthwise"))]
    arms += [("pruning", arm) for arm in ("taylor", "l2", "random")]
    rows = []
    for network in NETWORKS:
        for method, arm in arms:
            found = groups.get((network, method, arm))
            if found:
                cells = [_spread([row[key] for row in found]) for key in ("base", "top1", "agreement")]
                name = f"torch-pruning, {arm}" if method == "pruning" else f"{method}, {arm}"
                share = sum(row["flops_share"] for row in found) / len(found)
                rows.append([network, name, f"{share:.1%}", *cells, str(len(found))])
    return table(["network", "method", "FLOPs", "original, %", "top-1, %", "agrees with the original, %", "seeds"], rows)


def _spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.2f}" if max(values) == min(values) else f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})"


def ablation() -> str:
    """ResNet-56, one seed, on held-out training images: what each choice is worth."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in trials():
        if row["network"] == "resnet56" and row["variant"] and row["seed"] == 0:
            name = row["variant"] if row["variant"] != "as it is" else "least_squares"
            rows.setdefault((row["method"], name), {})[row["arm"]] = f"{row['top1']:.2f}"
    arms = ("depthwise", "pointwise", "auto")
    return table(["change", *arms], [[name, *(cells.get(arm, "") for arm in arms)] for (_, name), cells in rows.items()])


def by_images() -> str:
    """Top-1 on the test images by the number of calibration images, one seed."""
    arms = {
        ("least_squares", "depthwise"): "least_squares, depthwise",
        ("least_squares", "auto"): "least_squares, auto",
        ("block", "auto"): "block, auto",
        ("pruning", "taylor"): "torch-pruning, taylor",
    }
    rows = [r for r in trials() if r["seed"] == 0 and r["ratio"] == 2 and not r["variant"] and r["network"] in NETWORKS[:2]]
    found = {(r["network"], r["method"], r["arm"], r["images"]): f"{r['top1']:.2f}" for r in rows}
    counts = (50, 250, 1000)
    lines = [
        [network, name, *(found.get((network, *arm, count), "") for count in counts)]
        for network in NETWORKS[:2]
        for arm, name in arms.items()
    ]
    return table(["network", "method", *(f"{count} images" for count in counts)], lines)


def cost() -> str:
    """Time and memory of resnet50 by the number of images."""
    rows = sorted(load("calibration_cost.json")["rows"], key=lambda row: (row["threads"], row["images"]))
    return table(
        ["images", "threads", "seconds", "peak memory, GiB", "of that before, GiB"],
        [
            [str(r["images"]), str(r["threads"]), f"{r['seconds']:.0f}", f"{r['peak_gib']:.2f}", f"{r['before_gib']:.2f}"]
            for r in rows
        ],
    )


def budget() -> str:
    """Ratios chosen by a budget beside one for all, at equal FLOPs: mean over seeds, and range."""
    groups: dict[tuple[str, str, float], dict[str, list[Any]]] = {}
    for row in map(json.loads, (RESULTS / "budget.jsonl").read_text().splitlines()):
        groups.setdefault((row["network"], row["method"], row["share"]), {}).setdefault(row["arm"], []).append(row)
    lines, gains = [], []
    for (network, method, share), arms in sorted(groups.items(), key=lambda g: (NETWORKS.index(g[0][0]), g[0][1:])):
        if not {"uniform", "sensitivity"} <= arms.keys():
            continue
        seeds = {row["seed"] for row in arms["uniform"]} & {row["seed"] for row in arms["sensitivity"]}
        tops = {arm: [row["top1"] for row in rows if row["seed"] in seeds] for arm, rows in arms.items()}
        gain = sum(tops["sensitivity"]) / len(seeds) - sum(tops["uniform"]) / len(seeds)
        if method == "least_squares":
            gains.append(gain)
        flops = sum(row["planned_share"] for row in arms["uniform"]) / len(arms["uniform"])
        cells = [_spread(tops[arm]) if tops.get(arm) else "" for arm in ("uniform", "weights", "sensitivity")]
        base = _spread([row["base"] for row in arms["uniform"] if row["seed"] in seeds])
        lines.append([network, method, f"{share:g}", f"{flops:.1%}", base, *cells, f"{gain:+.2f}", str(len(seeds))])
    header = [
        "network", "calibration", "budget", "FLOPs", "original, %", "one ratio for all, %", "by the weights, %",
        "by sensitivities, %", "gain, points", "seeds",
    ]  # fmt: skip
    mean = sum(gains) / len(gains)
    told = f"Calibrated in closed form, a ratio for each site is worth {mean:.1f} points on average, {min(gains):.1f} at least."
    return f"{table(header, lines)}\n\n{told}"


def budget_costs() -> str:
    """The solver, the cost of sensitivities, and of reading a large sweep."""
    found = load("budget_costs.json")
    solver, cost, sweep, scaling = (found[name] for name in ("solver", "cost", "sweep", "scaling"))
    seconds = cost["seconds"]
    return "\n".join(
        [
            f"- Allocation beside an integer program, {solver['instances']:,} random instances: at most "
            f"{solver['largest_excess']:.4%} above its loss, {solver['longest_s']:.2f} s at most; for "
            f"{solver['most_sites_in_zoo']} sites of 25 options, the most of any model, {solver['longest_s_at_that']:.2f} s.",
            f"- Sensitivities of ResNet-50, {cost['sites']} sites at {cost['ratios']} ratios, {cost['images']} images of "
            f"224x224 on two cores: {seconds['one_worker'] / 60:.1f} minutes in one process with two threads, "
            f"{seconds['two_workers'] / 60:.1f} in two with one each ({cost['two_workers_times_faster']:.2f} times faster: "
            f"both use both cores). With one thread each, two processes are {scaling['times']:.2f} times faster than one "
            f"({scaling['network']}: {scaling['one_process_s']:.0f} s and {scaling['two_processes_s']:.0f} s).",
            f"- A sweep of {sweep['trials']:,} recorded trials is read in {sweep['read_s']:.1f} s, read and plotted in "
            f"{sweep['read_and_plot_s']:.1f} s.",
        ]
    )


RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last", "eager")
ARMS = ("depthwise", "auto", "pruned")


def latency() -> str:
    """How many times faster than the original: students with depthwise ghosts, with those of "auto", and pruned networks."""
    rows = []
    for cpu, network, found in _timed():
        for size in (1, 8):
            mine = {(r["model"], r["runtime"]): r for r in found["rows"] if r["batch_size"] == size}
            arms = [arm for arm in ARMS if any(model == arm for model, _ in mine)]
            flops = " / ".join(f"{mine[arm, 'eager']['flops_ratio']:.2f}" for arm in arms)
            cells = [" / ".join(_times(mine[arm, runtime]) for arm in arms) for runtime in RUNTIMES]
            rows.append([cpu, network, str(size), flops, *cells])
    return table(["processor", "network", "batch", "times fewer FLOPs", *RUNTIMES], rows)


def _timed() -> list[tuple[str, str, Any]]:
    """Processor, network, and what was measured there."""
    return [(cpu, name, found) for cpu, networks in load("latency.json").items() for name, found in networks.items()]


def _times(row: Any) -> str:
    return "" if row["latency_ratio"] is None else f"{row['latency_ratio']:.2f}"


def forms() -> str:
    """What folding, aligning and keeping maps apart are worth, each on each runtime."""
    found = load("latency_forms.json")
    models = list(dict.fromkeys(row["model"] for row in found["rows"]))
    rows = []
    for size in (1, 8):
        for model in models[1:]:
            mine = {r["runtime"]: r for r in found["rows"] if r["batch_size"] == size and r["model"] == model}
            rows.append([str(size), model, *(_times(mine[runtime]) for runtime in RUNTIMES)])
    return table(["batch", "form", *RUNTIMES], rows)


def only_if_faster() -> str:
    rows = [
        [
            cpu, network, row["runtime"], str(row["batch_size"]), str(row["converted"]), f"{row['flops_ratio']:.2f}",
            f"{row['latency_ratio']:.2f}",
        ]
        for cpu, network, found in _timed()
        for row in found["only_if_faster"]
    ]  # fmt: skip
    return table(["processor", "network", "runtime", "batch", "sites converted", "times fewer FLOPs", "times faster"], rows)


def memory() -> str:
    """Peak memory and file sizes, original and student."""
    rows = []
    for cpu, network, found in _timed():
        cells = []
        for runtime in RUNTIMES:
            dense, student = (found["memory_mib"][arm][runtime] for arm in ("dense", "depthwise"))
            cells.append("" if dense is None or student is None else f"{dense:.0f} → {student:.0f}")
        files = [
            f"{found['file_mb']['dense'][kind]} → {found['file_mb']['depthwise'][kind]}" for kind in ("onnx", "pt2", "xml")
        ]
        rows.append([cpu, network, *cells, *files])
    runtimes = [f"{runtime}, MiB" for runtime in RUNTIMES]
    return table(["processor", "network", *runtimes, ".onnx, MB", ".pt2, MB", ".xml and .bin, MB"], rows)


def dense() -> str:
    """Detection and segmentation on the test splits: mean over seeds of the recovery, and range."""
    names = {"map50": "mAP@0.5", "map": "mAP", "mean_iou": "mean IoU"}
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in map(json.loads, (RESULTS / "dense.jsonl").read_text().splitlines()):
        if row["split"] == "test":
            arm = {"teacher": "original", "ghost": "ghostify", "pruned": "torch-pruning"}.get(row["arm"])
            arm = arm or "ghostify, layers of the scores converted, too"
            stage = f", {row['stage']}" if row.get("stage", "pruned") != "pruned" else ""
            groups.setdefault((row["task"], arm + stage), []).append(row)
    timed = load("dense_latency.json")
    lines = []
    for (task, name), rows in sorted(groups.items(), key=lambda group: group[0][0]):  # by task
        scores = [
            f"{told} {_spread([row['scores'][key] for row in rows])}" for key, told in names.items() if key in rows[0]["scores"]
        ]
        row = rows[0]
        final = row["arm"] == "teacher" or row["stage"] == "recovered"
        ms = [f"{runtime} {of[row['arm']]:.0f}" for runtime, of in timed[task]["ms"].items()] if final else []
        steps, shares = f"{row['steps']:,}", [f"{row[key]:.1%}" for key in ("flops_share", "conv_share")]
        lines.append([task, name, *shares, steps, "; ".join(scores), ", ".join(ms)])
    header = ["task", "network", "FLOPs", "of convolutions", "training steps", "test images, %", "latency, ms"]
    told = ", ".join(dict.fromkeys(f"{of['threads']} threads, {of['machine']}" for of in timed.values()))
    return f"{table(header, lines)}\n\nLatency of one test image, folded: {told}."


LEARNERS = {
    "ghost": "ghostify, a ratio for each site", "uniform": "ghostify, one ratio", "taylor": "torch-pruning, Taylor",
    "l2": "torch-pruning, L2", "random": "torch-pruning, random",
}  # fmt: skip


def recovered(section: str) -> list[Any]:
    """Rows of the recovery benchmark."""
    rows = map(json.loads, (RESULTS / "recovery.jsonl").read_text().splitlines())
    return [row for row in rows if row["section"] == section]


def recovery() -> str:
    """Top-1 after each budget: mean over seeds, and range."""
    rows = recovered("main")
    budgets = sorted({row["steps"] for row in rows})
    lines = []
    for network in ("resnet56", "vgg16_bn"):
        for arm, name in LEARNERS.items():
            mine = [row for row in rows if (row["network"], row["arm"]) == (network, arm)]
            if not mine:
                continue
            cells = [_spread([r["top1"] for r in mine if r["steps"] == steps] or [float("nan")]) for steps in budgets]
            lines.append(
                [network, name, f"{mine[0]['flops_share']:.1%}", f"{mine[0]['base']:.2f}", *cells, f"{mine[0]['lr']:g}"]
            )
    header = ["network", "method", "FLOPs", "original, %", *(f"{steps:,} steps" for steps in budgets), "learning rate"]
    return f"{table(header, lines)}\n\n{rows[0]['about']}."


def recovery_grid() -> str:
    """Each learning rate after 100 steps, on held-out training images."""
    rows = recovered("grid")
    rates = sorted({row["lr"] for row in rows})
    found = {(row["network"], row["arm"], row["lr"]): row for row in rows}
    lines = [
        [network, name, *(f"{found[network, arm, lr]['held_out_top1']:.2f}" for lr in rates)]
        for network in ("resnet56", "vgg16_bn")
        for arm, name in LEARNERS.items()
    ]
    return table(["network", "method", *(f"{lr:g}" for lr in rates)], lines)


def recovery_rates() -> str:
    """2,000 steps at other learning rates than that of 100 steps."""
    rows = [*recovered("rates"), *(row for row in recovered("main") if row["steps"] == 2000)]
    chosen = sorted(
        (row for row in rows if row["arm"] in ("ghost", "l2")), key=lambda row: (row["network"], row["arm"], row["lr"])
    )
    lines = [
        [r["network"], LEARNERS[r["arm"]], f"{r['lr']:g}", f"{r['base']:.2f}", f"{r['top1']:.2f}", r["about"].partition(",")[0]]
        for r in chosen
    ]
    return table(["network", "method", "learning rate", "original, %", "2,000 steps", "device"], lines)


def recovery_few() -> str:
    """Top-1 after 500 steps on few images."""
    rows = recovered("few")
    counts = sorted({row["images"] for row in rows})
    lines = []
    for network, arm in sorted({(row["network"], row["arm"]) for row in rows}):
        mine = {row["images"]: row for row in rows if (row["network"], row["arm"]) == (network, arm)}
        row = next(iter(mine.values()))
        cells = [f"{mine[count]['top1']:.2f}" if count in mine else "" for count in counts]
        lines.append([network, LEARNERS[arm], f"{row['flops_share']:.1%}", f"{row['base']:.2f}", *cells])
    return table(["network", "method", "FLOPs", "original, %", *(f"{count:,} images" for count in counts)], lines)


def recovery_scratch() -> str:
    """The same student from random weights and from calibrated ones."""
    calibrated = [r for r in recovered("main") if (r["network"], r["arm"], r["seed"]) == ("resnet56", "ghost", 0)]
    found = {
        name: {row["steps"]: row["top1"] for row in rows}
        for name, rows in (("random", recovered("scratch")), ("calibrated", calibrated))
    }
    budgets = sorted({steps for rows in found.values() for steps in rows})
    lines = [[name, *(f"{rows[steps]:.2f}" if steps in rows else "" for steps in budgets)] for name, rows in found.items()]
    return table(["weights at the start", *(f"{steps:,} steps" for steps in budgets)], lines)


def recovery_paper() -> str:
    """All sites at ratio 2, with labels: the learning rate that did best on held-out training images."""
    rows = recovered("paper")
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        row = max(mine, key=lambda row: row["held_out_top1"])
        epochs = f"{row['steps'] * 128 / 45000:.0f}"
        found = [f"{row[key]:.2f}" for key in ("base", "top1", "held_out_base", "held_out_top1")]
        lines.append([network, f"{row['flops_share']:.1%}", f"{row['steps']:,}", epochs, f"{row['lr']:g}", *found])
    header = ["network", "FLOPs", "steps", "epochs", "learning rate", "original, %", "top-1, %"]
    return table([*header, "original, held-out images, %", "top-1, held-out images, %"], lines)


def recovery_overhead() -> str:
    lines = []
    for found in load("recovery_overhead.json").values():
        ratios = [row["ratio"] for row in found["rows"]]
        speeds = [f"{found[key]:,}" for key in ("training_images_per_s", "loader_images_per_s")]
        lines.append([found["machine"], f"{found['median_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", *speeds])
    return table(["machine", "times as long as the bare loop", "images/s", "images/s of the loader alone"], lines)


def latency_gpu() -> str:
    """Original over student, and over the pruned network, on a GPU."""
    found = load("latency_gpu.json")
    timed = {(r["network"], r["precision"], r["runtime"], r["batch"], r["model"]): r for r in found["rows"]}
    lines = []
    for network in dict.fromkeys(row["network"] for row in found["rows"]):
        for precision in ("fp32", "bf16"):
            for runtime, told in (("cuda", "eager"), ("cuda_compile", "compiled, CUDA graphs")):
                cells = []
                for batch in (1, 32, 256):
                    of = {model: timed.get((network, precision, runtime, batch, model)) for model in GPU_MODELS}
                    ms = f"{of['dense']['ms']:.2f} ms" if of["dense"] else ""
                    times = " / ".join(f"{of[m]['times_faster']:.2f}" for m in GPU_MODELS[1:] if of[m])
                    cells.append(f"{ms}: {times}" if times else "")
                if any(cells):
                    row = timed[network, precision, runtime, 1, "depthwise"]
                    lines.append([network, precision, told, f"{row['flops_ratio']:.2f}", *cells])
    header = ["network", "precision", "run", "times fewer FLOPs", *(f"batch {batch}" for batch in (1, 32, 256))]
    return f"{table(header, lines)}\n\n{found['machine']}."


GPU_MODELS = ("dense", "depthwise", "pruned")


def latency_accuracy() -> str:
    """Networks of equal FLOPs: how accurate after calibration, and how many times faster."""
    rows, machines = [], set()
    for network, found in load("latency_accuracy.json").items():
        machines.add(f"{found['threads']} threads, {found['machine']}.")
        timed = {(t["model"], t["runtime"], t["batch_size"]): t for t in found["timings"]}
        for name, row in found["rows"].items():
            flops = f"{timed[name, 'openvino', 1]['flops_ratio']:.2f}"
            cells = [" / ".join(_times(timed[name, runtime, size]) for size in (1, 8)) for runtime in RUNTIMES[:4]]
            rows.append([network, name, flops, f"{row['base']:.1f}", f"{row['top1']:.1f}", *cells])
    header = ["network", "made by", "times fewer FLOPs", "original, %", "top-1, %", *RUNTIMES[:4]]
    return f"{table(header, rows)}\n\n{' '.join(sorted(machines))}"


def int8() -> str:
    found = load("int8.json")
    header = ["runtime", "network", "top-1, %", "outputs off by", "file, MB", "ms"]
    rows = [
        [
            r["runtime"], r["network"],
            *(
                ["", f"`export` refuses: {r['refused'].rpartition(': ')[2]}", "", ""]
                if "refused" in r
                else [f"{r['top1']:.1f}", f"{r['off']:.0%}" if r["off"] else "", f"{r['file_mb']:.1f}", f"{r['ms']:.1f}"]
            ),
        ]
        for r in found["rows"]
    ]  # fmt: skip
    return f"{table(header, rows)}\n\n{found['threads']} threads, {found['machine']}."


def bad_files() -> str:
    found = load("bad_files.json")
    rows = [[kind, f"{r['refused']} of {r['files']}", f"{r['longest_s']:.2f} s"] for kind, r in found["kinds"].items()]
    told = (
        f"A student of ResNet-50 ({found['bytes'] / 1e6:.0f} MB); memory stood at most {found['memory_grown_mib']:.0f} MiB "
        "higher than after loading the sound file."
    )
    return f"{table(['file', 'refused', 'longest time'], rows)}\n\n{told}"


def round_trips() -> str:
    with (RESULTS / "round_trips.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    beyond = [row for row in found if float(row["fold_off"]) > 1e-5]
    rows = [["families", str(len(found))]]
    rows.append(["loaded, outputs the very same", str(sum(row["loaded"] == "True" for row in found))])
    rows.append(["folded, outputs within 1e-5 of the largest", str(len(found) - len(beyond))])
    for kind, told in (("onnx", "ONNX"), ("torch", "torch.export")):
        whole = sum(row[kind] == "True" for row in found)
        parts = sum(row[kind] in ("backbone", "feature_encoder") for row in found)
        rows.append([f"exported as {told}, run and compared", f"{whole}, and {parts} by a part"])
    told = "".join(
        f" Folded, {row['model'].partition('/')[2]} is off by {row['fold_off']}; in channels_last it is off from itself by "
        f"{row['self_off']}."
        for row in beyond
    )
    note = "By a part: detectors and RAFT take no single tensor, so their backbone or feature encoder was exported."
    return table(["", ""], rows) + f"\n\n{note}{told}"


SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "paper": paper,
        "zoo": zoo,
        "warm_start": warm_start,
        "calibration": calibration,
        "budget": budget,
        "dense": dense,
        "recovery": recovery,
        "latency": latency,
        "speed": speed,
    },
    "docs/deploy.md": {
        "round_trips": round_trips,
        "forms": forms,
        "int8": int8,
        "latency_accuracy": latency_accuracy,
        "bad_files": bad_files,
        "memory": memory,
        "only_if_faster": only_if_faster,
    },
    "docs/recovery.md": {
        "recovery_grid": recovery_grid,
        "recovery_rates": recovery_rates,
        "recovery_few": recovery_few,
        "recovery_paper": recovery_paper,
        "recovery_scratch": recovery_scratch,
        "recovery_overhead": recovery_overhead,
    },
    "docs/budgets.md": {"budget_costs": budget_costs},
    "docs/calibration.md": {"cost": cost, "images": by_images, "ablation": ablation},
}


def filled(file: str) -> str:
    """The text of a file with its sections as the results say."""
    text = (ROOT / file).read_text()
    for name, make in SECTIONS[file].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made = make()
        text, count = pattern.subn(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)
        assert count == 1, name
    return text


def stale() -> list[str]:
    """Files that say anything else than the results."""
    return [file for file in SECTIONS if filled(file) != (ROOT / file).read_text()]


def main() -> None:
    files = stale()
    if "--check" in sys.argv:
        sys.exit(f"{', '.join(files)} differ from benchmarks/results/: run python -m benchmarks.readme" if files else 0)
    for file in files:
        (ROOT / file).write_text(filled(file))


if __name__ == "__main__":
    main()
