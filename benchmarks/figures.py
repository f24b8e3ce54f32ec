"""Draw the figures of the README into docs/: how Ghost modules work, what a conversion saves, and the curves of the benchmarks.

python -m benchmarks.figures
"""

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import ghostify
from benchmarks.calibration import accuracy_tables
from benchmarks.deployment import latency_accuracy
from benchmarks.distillation import recovery_tables
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.drawing import GHOST, INK, INPUT, INTRINSIC, plt, save


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
    save(fig, "how_it_works", dpi=130)


def savings() -> None:
    student = ghostify.convert(ghostify.create_model("torchvision/resnet50", device="meta"))
    ax = ghostify.report(student).plot()
    ax.set_title("torchvision resnet50, ratio 2: FLOPs of each convolution", loc="left")
    save(ax.figure, "resnet50_savings")


def main() -> None:
    parse(argument_parser(__doc__))
    how_it_works()
    savings()
    for benchmark in (accuracy_tables, recovery_tables, latency_accuracy):
        benchmark.draw()


if __name__ == "__main__":
    main()
