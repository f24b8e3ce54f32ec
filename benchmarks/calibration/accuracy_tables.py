"""Tables and curves of the accuracy straight after calibration."""

from benchmarks.calibration.accuracy_trials import SHARES
from benchmarks.harness.drawing import BLOCK, GHOST, INTRINSIC, LINE, PRUNED, PRUNED_LIGHT, plain, plt, save
from benchmarks.harness.markdown import mean_and_range, percent, table
from benchmarks.harness.networks import CIFAR, NETWORKS
from benchmarks.harness.results import Row, read_lines

ARMS = (
    ("block", "auto"),
    ("least_squares", "auto"),
    ("least_squares", "depthwise"),
    *(("pruning", arm) for arm in ("taylor", "l2", "random")),
)
CURVES = {
    ("block", "absorbed"): ("absorbed, block steps", {"color": BLOCK}),
    ("least_squares", "absorbed"): ("absorbed, closed form", {"color": INTRINSIC}),
    ("block", "auto"): ("Ghost modules, block steps", {"color": GHOST}),
    ("least_squares", "auto"): ("Ghost modules, closed form", {"color": GHOST, "ls": ":"}),
    ("pruning", "best"): ("torch-pruning, its best importance", {"color": PRUNED, "ls": "--"}),
    ("pruning", "l2"): ("torch-pruning, L2", {"color": PRUNED_LIGHT, "ls": "--"}),
    ("pruning", "taylor"): ("torch-pruning, Taylor", {"color": PRUNED_LIGHT, "ls": ":"}),
}


def tables() -> dict[str, str]:
    rows = read_lines("calibration.jsonl")
    return {"calibration": main_table(rows), "images": by_images(rows), "ablation": ablation(rows)}


def main_table(rows: list[Row]) -> str:
    """Mean over seeds of the images, and the range."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        images = 256 if row["network"] in CIFAR else 250
        if row["ratio"] == 2 and not row["variant"] and row["images"] == images:
            groups.setdefault((row["network"], row["method"], row["arm"]), []).append(row)
    lines = []
    for network in NETWORKS:
        for method, arm in ARMS:
            group = groups.get((network, method, arm))
            if group:
                cells = [mean_and_range([row[key] for row in group]) for key in ("base", "top1", "agreement")]
                name = f"torch-pruning, {arm}" if method == "pruning" else f"{method}, {arm}"
                share = sum(row["flops_share"] for row in group) / len(group)
                lines.append([network, name, percent(share), *cells, str(len(group))])
    return table(["network", "method", "FLOPs", "original, %", "top-1, %", "agrees with the original, %", "seeds"], lines)


def ablation(rows: list[Row]) -> str:
    """ResNet-56, one seed, on held-out training images: what each choice is worth."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row["network"] == "resnet56" and row["variant"] and row["seed"] == 0 and "share" not in row:
            name = row["variant"] if row["variant"] != "as it is" else "least_squares"
            lines.setdefault((row["method"], name), {})[row["arm"]] = f"{row['top1']:.2f}"
    arms = ("depthwise", "pointwise", "auto")
    return table(["change", *arms], [[name, *(cells.get(arm, "") for arm in arms)] for (_, name), cells in lines.items()])


def by_images(rows: list[Row]) -> str:
    """Top-1 on the test images by the number of calibration images, one seed."""
    arms = {
        ("least_squares", "depthwise"): "least_squares, depthwise",
        ("least_squares", "auto"): "least_squares, auto",
        ("block", "auto"): "block, auto",
        ("pruning", "taylor"): "torch-pruning, taylor",
    }
    rows = [r for r in rows if r["seed"] == 0 and r["ratio"] == 2 and not r["variant"] and r["network"] in CIFAR]
    top1 = {(r["network"], r["method"], r["arm"], r["images"]): f"{r['top1']:.2f}" for r in rows}
    counts = (50, 250, 1000)
    lines = [
        [network, name, *(top1.get((network, *arm, count), "") for count in counts)]
        for network in CIFAR
        for arm, name in arms.items()
    ]
    return table(["network", "method", *(f"{count} images" for count in counts)], lines)


def draw() -> None:
    """Accuracy straight after calibration against FLOPs: mean over the seeds of images, and their range."""
    rows = [row for row in read_lines("calibration.jsonl") if not row["variant"] and "top1" in row]
    fig, axes = plt.subplots(2, 2, figsize=(10.6, 7.4), layout="constrained")
    for ax, network in zip(axes.flat, NETWORKS, strict=True):
        images = 256 if network in CIFAR else 250
        of_network = [row for row in rows if (row["network"], row["images"]) == (network, images)]
        for (method, arm), (name, style) in CURVES.items():
            points = curve([row for row in of_network if (row["method"], row["arm"]) == (method, arm)])
            if arm in ("l2", "taylor") and any(row["arm"] == "best" for row in of_network):
                continue
            if len(points) > 1:
                x, mean, low, high = zip(*points, strict=True)
                ax.plot(x, mean, label=name, **LINE, **style)
                ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
        base = sum(row["base"] for row in of_network) / len(of_network)
        plain(ax, base)
        ax.annotate("original", (ax.get_xlim()[0], base), xytext=(2, 3), textcoords="offset points", fontsize=9)
        ax.set(xlabel="FLOPs, % of the original", ylabel=f"{network}: top-1, %")
    axes[0, 0].legend(frameon=False, fontsize=9)
    save(fig, "calibration_curves")


def curve(rows: list[Row]) -> list[tuple[float, float, float, float]]:
    """FLOPs in percent, mean, least and highest top-1 of the seeds; of shares of FLOPs if there are any, else of ratios."""
    by_share = [row for row in rows if row.get("share") in SHARES]
    groups: dict[float, list[Row]] = {}
    for row in by_share or [row for row in rows if row.get("share") is None and row["seed"] == 0]:
        groups.setdefault(row.get("share") or 1 / row["ratio"], []).append(row)
    return [
        (100 * sum(row["flops_share"] for row in group) / len(group), sum(top1) / len(top1), min(top1), max(top1))
        for _, group in sorted(groups.items())
        if (top1 := [row["top1"] for row in group])
    ]
