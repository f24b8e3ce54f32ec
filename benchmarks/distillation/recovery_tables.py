"""Tables and curves of the accuracy after distillation."""

from benchmarks.distillation.recovery_trials import RESULTS
from benchmarks.harness.drawing import BLOCK, GHOST, LINE, PRUNED, PRUNED_LIGHT, RANDOM, plain, plt, save
from benchmarks.harness.markdown import mean_and_range, percent, table
from benchmarks.harness.networks import CIFAR
from benchmarks.harness.results import Row, read_lines

NAMES = {
    "ghost": "ghostify, a ratio for each site",
    "uniform": "ghostify, one ratio",
    "taylor": "torch-pruning, Taylor",
    "l2": "torch-pruning, L2",
    "random": "torch-pruning, random",
}
STYLES = {
    "ghost": {"color": BLOCK},
    "uniform": {"color": GHOST},
    "taylor": {"color": PRUNED_LIGHT, "ls": "--"},
    "l2": {"color": PRUNED, "ls": "--"},
    "random": {"color": RANDOM, "ls": "--"},
}


def tables() -> dict[str, str]:
    return {
        "recovery": main_table(),
        "recovery_grid": grid(),
        "recovery_rates": rates(),
        "recovery_few": few(),
        "recovery_paper": paper(),
        "recovery_scratch": scratch(),
    }


def section(name: str) -> list[Row]:
    return [row for row in read_lines(RESULTS) if row["section"] == name]


def of_arm(rows: list[Row], network: str, arm: str) -> list[Row]:
    return [row for row in rows if (row["network"], row["arm"]) == (network, arm)]


def main_table() -> str:
    """Top-1 after each budget: mean over seeds, and range."""
    rows = section("main")
    budgets = sorted({row["steps"] for row in rows})
    lines = []
    for network in CIFAR:
        for arm, name in NAMES.items():
            seeds = of_arm(rows, network, arm)
            if not seeds:
                continue
            cells = [mean_and_range([r["top1"] for r in seeds if r["steps"] == steps] or [float("nan")]) for steps in budgets]
            first = seeds[0]
            lines.append([network, name, percent(first["flops_share"]), f"{first['base']:.2f}", *cells, f"{first['lr']:g}"])
    header = ["network", "method", "FLOPs", "original, %", *(f"{steps:,} steps" for steps in budgets), "learning rate"]
    return f"{table(header, lines)}\n\n{rows[0]['about']}."


def grid() -> str:
    """Each learning rate after 100 steps, on held-out training images."""
    rows = section("grid")
    rates = sorted({row["lr"] for row in rows})
    top1 = {(row["network"], row["arm"], row["lr"]): f"{row['held_out_top1']:.2f}" for row in rows}
    lines = [[network, name, *(top1[network, arm, lr] for lr in rates)] for network in CIFAR for arm, name in NAMES.items()]
    return table(["network", "method", *(f"{lr:g}" for lr in rates)], lines)


def rates() -> str:
    """2,000 steps at other learning rates than that of 100 steps."""
    rows = [*section("rates"), *(row for row in section("main") if row["steps"] == 2000)]
    both = [row for row in rows if row["arm"] in ("ghost", "l2")]
    lines = [
        [
            *(row["network"], NAMES[row["arm"]], f"{row['lr']:g}"),
            *(f"{row[key]:.2f}" for key in ("base", "top1")),
            row["about"].partition(",")[0],
        ]
        for row in sorted(both, key=lambda row: (row["network"], row["arm"], row["lr"]))
    ]
    return table(["network", "method", "learning rate", "original, %", "2,000 steps", "device"], lines)


def few() -> str:
    """Top-1 after 500 steps on few images."""
    rows = section("few")
    counts = sorted({row["images"] for row in rows})
    lines = []
    for network, arm in sorted({(row["network"], row["arm"]) for row in rows}):
        by_images = {row["images"]: row for row in of_arm(rows, network, arm)}
        first = next(iter(by_images.values()))
        cells = [f"{by_images[count]['top1']:.2f}" if count in by_images else "" for count in counts]
        lines.append([network, NAMES[arm], percent(first["flops_share"]), f"{first['base']:.2f}", *cells])
    return table(["network", "method", "FLOPs", "original, %", *(f"{count:,} images" for count in counts)], lines)


def scratch() -> str:
    """The same student from random weights and from calibrated ones."""
    calibrated = [row for row in of_arm(section("main"), "resnet56", "ghost") if row["seed"] == 0]
    starts = {
        name: {row["steps"]: row["top1"] for row in rows}
        for name, rows in (("random", section("scratch")), ("calibrated", calibrated))
    }
    budgets = sorted({steps for rows in starts.values() for steps in rows})
    lines = [[name, *(f"{rows[steps]:.2f}" if steps in rows else "" for steps in budgets)] for name, rows in starts.items()]
    return table(["weights at the start", *(f"{steps:,} steps" for steps in budgets)], lines)


def paper() -> str:
    """All sites at ratio 2, with labels: the learning rate that did best on held-out training images."""
    rows = section("paper")
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        row = max((row for row in rows if row["network"] == network), key=lambda row: row["held_out_top1"])
        epochs = f"{row['steps'] * 128 / 45000:.0f}"
        scores = [f"{row[key]:.2f}" for key in ("base", "top1", "held_out_base", "held_out_top1")]
        lines.append([network, percent(row["flops_share"]), f"{row['steps']:,}", epochs, f"{row['lr']:g}", *scores])
    header = ["network", "FLOPs", "steps", "epochs", "learning rate", "original, %", "top-1, %"]
    return table([*header, "original, held-out images, %", "top-1, held-out images, %"], lines)


def draw() -> None:
    """Accuracy against steps of distillation."""
    rows = section("main")
    fig, axes = plt.subplots(1, 2, figsize=(10.6, 4), layout="constrained")
    for ax, network in zip(axes, CIFAR, strict=True):
        base = of_arm(rows, network, "random")[0]["base"]
        for arm, name in NAMES.items():
            seeds = of_arm(rows, network, arm)
            budgets = sorted({row["steps"] for row in seeds})
            top1 = [[row["top1"] for row in seeds if row["steps"] == steps] for steps in budgets]
            means = [sum(values) / len(values) for values in top1]
            below = [mean - min(values) for mean, values in zip(means, top1, strict=True)]
            above = [max(values) - mean for mean, values in zip(means, top1, strict=True)]
            ax.errorbar(range(len(budgets)), means, yerr=[below, above], label=name, capsize=2, **LINE, **STYLES[arm])
        plain(ax, base)
        ax.annotate("original", (0, base), xytext=(2, 3), textcoords="offset points", fontsize=9)
        ax.set_xticks(range(len(budgets)), labels=[f"{steps:,}" for steps in budgets])
        ax.set(xlabel="steps of 128 images", title=f"{network}, 53 % of the FLOPs", ylim=(75, base + 1.5))
    axes[0].set_ylabel("top-1, %")
    axes[1].legend(frameon=False, fontsize=9, loc="lower right")
    save(fig, "recovery")
