"""Draw the figures of the README into docs/.

python -m benchmarks.figures
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import ghostify
from benchmarks.readme import LEARNERS, load, recovered, trials

mpl.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / "docs"
INPUT, INTRINSIC, GHOST, INK = "#9aa5b1", "#2563a8", "#9cc3ea", "#20262e"


def maps(ax, x, y, colors, size=0.62, step=0.2):
    """A stack of feature maps, seen from a corner."""
    for k, color in enumerate(colors):
        ax.add_patch(Rectangle((x + k * step, y - k * step * 0.55), size, size, facecolor=color, edgecolor="white", lw=1.2))
    return x + (len(colors) - 1) * step + size


def arrow(ax, start, end, **style):
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, lw=1.2, **style))


def box(ax, x, y, width, text):
    ax.add_patch(FancyBboxPatch((x, y - 0.3), width, 0.6, boxstyle="round,pad=0.04", facecolor="#f2f4f7", edgecolor=INK))
    ax.text(x + width / 2, y, text, ha="center", va="center", fontsize=9, color=INK)


def how_it_works() -> None:
    fig, ax = plt.subplots(figsize=(10.6, 4.1), layout="constrained")
    ax.set(xlim=(0, 15.4), ylim=(-0.5, 5.5), aspect="equal")
    ax.axis("off")
    ax.text(0, 5.2, "before: a convolution computes all n maps", fontsize=11, color=INK, weight="bold")
    maps(ax, 0, 4.1, [INPUT] * 4)
    box(ax, 2.3, 4.15, 2.6, "convolution\nnorm, activation")
    arrow(ax, (1.45, 4.15), (2.2, 4.15))
    arrow(ax, (5.0, 4.15), (5.7, 4.15))
    maps(ax, 5.8, 4.35, [INTRINSIC] * 8)

    ax.text(
        0,
        2.75,
        "after: it computes m = n / s of them, and a cheap operation makes the others",
        fontsize=11,
        color=INK,
        weight="bold",
    )
    maps(ax, 0, 1.3, [INPUT] * 4)
    box(ax, 2.3, 1.35, 2.6, "primary convolution\nnorm, activation")
    arrow(ax, (1.45, 1.35), (2.2, 1.35))
    arrow(ax, (5.0, 1.35), (5.7, 1.35))
    maps(ax, 5.8, 1.3, [INTRINSIC] * 4)
    box(ax, 7.9, 0.1, 2.6, "d x d depthwise\nnorm, activation")
    arrow(ax, (7.15, 0.85), (7.85, 0.25))
    arrow(ax, (10.6, 0.1), (11.1, 0.1))
    maps(ax, 11.2, 0.05, [GHOST] * 4)
    order = [INTRINSIC, GHOST, GHOST, INTRINSIC, INTRINSIC, GHOST, INTRINSIC, GHOST]
    maps(ax, 13.3, 1.85, order, step=0.17)
    arrow(ax, (7.25, 1.75), (13.2, 2.0), connectionstyle="arc3,rad=-0.06")
    arrow(ax, (12.55, 0.3), (13.25, 1.1))
    ax.text(6.4, 2.1, "m intrinsic", ha="center", fontsize=9, color=INTRINSIC)
    ax.text(11.85, 0.85, "n - m ghosts", ha="center", fontsize=9, color="#4b8ac9")
    ax.text(14.2, 2.65, "original order", ha="center", fontsize=9, color=INK)
    fig.savefig(DOCS / "how_it_works.png", dpi=130)


def savings() -> None:
    student = ghostify.convert(ghostify.create_model("torchvision/resnet50", device="meta"))
    ax = ghostify.report(student).plot()
    ax.set_title("torchvision resnet50, ratio 2: FLOPs of each convolution", loc="left")
    ax.figure.savefig(DOCS / "resnet50_savings.png", dpi=110)


def calibration_curves() -> None:
    """Accuracy straight after calibration against FLOPs and against the number of images, of seed 0."""
    rows = [row for row in trials() if row["seed"] == 0 and not row["variant"]]
    fig, axes = plt.subplots(2, 2, figsize=(10.6, 7.4), layout="constrained", sharey="row")
    for (left, right), network in zip(axes, ("resnet56", "vgg16_bn"), strict=True):
        mine = [row for row in rows if row["network"] == network]
        for (method, arm), (name, style) in CURVES.items():
            found = [row for row in mine if (row["method"], row["arm"]) == (method, arm)]
            for ax, chosen, key in (
                (left, [row for row in found if row["images"] == 256], "flops_share"),
                (right, [row for row in found if row["ratio"] == 2 and row["images"] != 256], "images"),
            ):
                points = sorted((row[key] * (100 if key == "flops_share" else 1), row["top1"]) for row in chosen)
                if len(points) > 1:
                    ax.plot(*zip(*points, strict=True), label=name, marker="o", ms=4, lw=1.6, **style)
        for ax in (left, right):
            ax.axhline(mine[0]["base"], color=INK, lw=1, ls=":")
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        left.annotate("original", (left.get_xlim()[0], mine[0]["base"]), xytext=(2, 3), textcoords="offset points", fontsize=9)
        left.set(xlabel="FLOPs, % of the original", ylabel=f"{network}: top-1, %", title="256 images, ratios 4 to 1.5")
        right.set(xlabel="calibration images", xscale="log", title="ratio 2")
        right.set_xticks([50, 250, 1000], labels=["50", "250", "1,000"])
        right.minorticks_off()
    axes[0, 0].legend(frameon=False, fontsize=9)
    fig.savefig(DOCS / "calibration_curves.png", dpi=110)


CURVES = {
    ("block", "auto"): ("ghostify, block", {"color": "#173f6b"}),
    ("least_squares", "auto"): ("ghostify, least_squares", {"color": INTRINSIC}),
    ("least_squares", "depthwise"): ("ghostify, least_squares, depthwise", {"color": GHOST}),
    ("pruning", "l2"): ("torch-pruning, L2", {"color": "#c2571a", "ls": "--"}),
    ("pruning", "taylor"): ("torch-pruning, Taylor", {"color": "#e3a06b", "ls": "--"}),
}


def latency_accuracy() -> None:
    """Accuracy straight after calibration against measured latency, batch 1."""
    results = load("latency_accuracy.json")
    runtimes = ("openvino", "onnxruntime", "compile", "channels_last")
    fig, axes = plt.subplots(
        len(results), 4, figsize=(12.4, 3.1 * len(results)), layout="constrained", sharey="row", squeeze=False
    )
    for line, (network, found) in zip(axes, results.items(), strict=True):
        for ax, runtime in zip(line, runtimes, strict=True):
            timed = {t["model"]: t for t in found["timings"] if (t["runtime"], t["batch_size"]) == (runtime, 1)}
            for method, (name, style) in TIMED.items():
                rows = [
                    (timed[model]["latency_ratio"], row["top1"])
                    for model, row in found["rows"].items()
                    if row["method"] == method
                ]
                if rows:  # in the order of the ratios
                    ax.plot(*zip(*rows, strict=True), label=name, marker="o", ms=4, lw=1.6, **style)
            ax.axhline(next(iter(found["rows"].values()))["base"], color=INK, lw=1, ls=":")
            ax.axvline(1, color=INK, lw=1, ls=":")
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set(xlabel="times faster", title=runtime)
        line[0].set_ylabel(f"{network}: top-1, %")
    axes[-1, 0].legend(frameon=False, fontsize=9)
    fig.savefig(DOCS / "latency_accuracy.png", dpi=110)


TIMED = {
    "block": ("ghostify, block", {"color": "#173f6b"}),
    "least_squares": ("ghostify, least_squares", {"color": INTRINSIC}),
    "pruning": ("torch-pruning", {"color": "#c2571a", "ls": "--"}),
}


def recovery() -> None:
    """Accuracy against steps of distillation."""
    rows = recovered("main")
    fig, axes = plt.subplots(1, 2, figsize=(10.6, 4), layout="constrained")
    for ax, network in zip(axes, ("resnet56", "vgg16_bn"), strict=True):
        for arm, name in LEARNERS.items():
            mine = [row for row in rows if (row["network"], row["arm"]) == (network, arm)]
            budgets = sorted({row["steps"] for row in mine})
            seeds = [[row["top1"] for row in mine if row["steps"] == steps] for steps in budgets]
            means = [sum(found) / len(found) for found in seeds]
            ends = [
                [m - min(f) for m, f in zip(means, seeds, strict=True)],
                [max(f) - m for m, f in zip(means, seeds, strict=True)],
            ]
            ax.errorbar(range(len(budgets)), means, yerr=ends, label=name, marker="o", ms=4, lw=1.6, capsize=2, **LEARNING[arm])
        ax.axhline(mine[0]["base"], color=INK, lw=1, ls=":")
        ax.annotate("original", (0, mine[0]["base"]), xytext=(2, 3), textcoords="offset points", fontsize=9)
        ax.set_xticks(range(len(budgets)), labels=[f"{steps:,}" for steps in budgets])
        ax.set(xlabel="steps of 128 images", title=f"{network}, 53 % of the FLOPs", ylim=(75, mine[0]["base"] + 1.5))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("top-1, %")
    axes[1].legend(frameon=False, fontsize=9, loc="lower right")
    fig.savefig(DOCS / "recovery.png", dpi=110)


LEARNING = {
    "ghost": {"color": "#173f6b"},
    "uniform": {"color": GHOST},
    "taylor": {"color": "#e3a06b", "ls": "--"},
    "l2": {"color": "#c2571a", "ls": "--"},
    "random": {"color": "#b0b0b0", "ls": "--"},
}


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    how_it_works()
    savings()
    calibration_curves()
    recovery()
    latency_accuracy()
