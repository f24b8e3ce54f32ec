"""Tables and curves of the accuracy straight after calibration."""

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
    ("block", "auto"): ("ghostify, block", {"color": BLOCK}),
    ("least_squares", "auto"): ("ghostify, least_squares", {"color": INTRINSIC}),
    ("least_squares", "depthwise"): ("ghostify, least_squares, depthwise", {"color": GHOST}),
    ("pruning", "l2"): ("torch-pruning, L2", {"color": PRUNED, "ls": "--"}),
    ("pruning", "taylor"): ("torch-pruning, Taylor", {"color": PRUNED_LIGHT, "ls": "--"}),
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
        if row["network"] == "resnet56" and row["variant"] and row["seed"] == 0:
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
    """Accuracy straight after calibration against FLOPs and against the number of images, of seed 0."""
    rows = [row for row in read_lines("calibration.jsonl") if row["seed"] == 0 and not row["variant"]]
    fig, axes = plt.subplots(2, 2, figsize=(10.6, 7.4), layout="constrained", sharey="row")
    for (left, right), network in zip(axes, CIFAR, strict=True):
        of_network = [row for row in rows if row["network"] == network]
        for (method, arm), (name, style) in CURVES.items():
            of_arm = [row for row in of_network if (row["method"], row["arm"]) == (method, arm)]
            shares = [(row["flops_share"] * 100, row["top1"]) for row in of_arm if row["images"] == 256]
            images = [(row["images"], row["top1"]) for row in of_arm if row["ratio"] == 2 and row["images"] != 256]
            for ax, points in ((left, shares), (right, images)):
                if len(points) > 1:
                    ax.plot(*zip(*sorted(points), strict=True), label=name, **LINE, **style)
        base = of_network[0]["base"]
        for ax in (left, right):
            plain(ax, base)
        left.annotate("original", (left.get_xlim()[0], base), xytext=(2, 3), textcoords="offset points", fontsize=9)
        left.set(xlabel="FLOPs, % of the original", ylabel=f"{network}: top-1, %", title="256 images, ratios 4 to 1.5")
        right.set(xlabel="calibration images", xscale="log", title="ratio 2")
        right.set_xticks([50, 250, 1000], labels=["50", "250", "1,000"])
        right.minorticks_off()
    axes[0, 0].legend(frameon=False, fontsize=9)
    save(fig, "calibration_curves")
