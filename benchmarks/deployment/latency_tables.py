"""Tables of latency, memory and file sizes."""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json

RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last", "eager")
ARMS = ("absorbed", "depthwise", "auto", "pruned")


def tables() -> dict[str, str]:
    return {"latency": latency(), "speed_for_flops": speed_for_flops(), "only_if_faster": only_if_faster(), "memory": memory()}


def networks() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Processor, network, and what was measured there."""
    for processor, results in read_json("latency.json").items():
        for network, result in results.items():
            yield processor, network, result


def times_faster(row: Row | None) -> str:
    return "-" if row is None or row["latency_ratio"] is None else f"{row['latency_ratio']:.2f}"


def latency() -> str:
    """How many times faster than the original the networks of each arm are."""
    lines = []
    timed_arms = {row["model"] for _, _, result in networks() for row in result["rows"]}
    arms = [arm for arm in ARMS if arm in timed_arms]
    for processor, network, result in networks():
        for size in (1, 8):
            rows = timed(result, size)
            flops = " / ".join(
                "-" if (arm, "eager") not in rows else f"{rows[arm, 'eager']['flops_ratio']:.2f}" for arm in arms
            )
            cells = [" / ".join(times_faster(rows.get((arm, runtime))) for arm in arms) for runtime in RUNTIMES]
            lines.append([processor, network, str(size), flops, *cells])
    return table(["processor", "network", "batch", f"times fewer FLOPs: {' / '.join(arms)}", *RUNTIMES], lines)


def timed(result: dict[str, Any], size: int) -> dict[tuple[str, str], Row]:
    """The rows of a batch size by network and runtime."""
    return {(row["model"], row["runtime"]): row for row in result["rows"] if row["batch_size"] == size}


def speed_for_flops() -> str:
    """What share of the FLOPs ratio is speed: absorbed ghosts / pruning, and the spread of the former's time."""
    lines, shares, behind = [], [], []
    for processor, network, result in networks():
        for size in (1, 8):
            rows = timed(result, size)
            pairs = [(rows.get(("absorbed", runtime)), rows.get(("pruned", runtime))) for runtime in RUNTIMES]
            if not any(absorbed for absorbed, _ in pairs):
                continue
            cells = []
            for runtime, (absorbed, pruned) in zip(RUNTIMES, pairs, strict=True):
                cells.append(" / ".join([share_kept(absorbed), share_kept(pruned)]))
                if absorbed and absorbed["seconds"]:
                    cells[-1] += f" (±{(absorbed['high'] - absorbed['low']) / absorbed['seconds'] / 2:.0%})"
                    shares.append(absorbed["latency_ratio"] / absorbed["flops_ratio"])
                    if pruned and pruned["seconds"] and absorbed["low"] > pruned["high"]:
                        behind.append(f"{network}, {runtime}, batch {size}")
            lines.append([processor, network, str(size), *cells])
    text = table(["processor", "network", "batch", *RUNTIMES], lines)
    if not shares:
        return text
    least = f"At least {min(shares):.2f}, in the median {sorted(shares)[len(shares) // 2]:.2f}, in {len(shares)} measurements"
    return f"{text}\n\n{least}; behind pruning by more than both quartiles: {'; '.join(behind) or 'in none'}."


def share_kept(row: Row | None) -> str:
    return "-" if row is None or row["seconds"] is None else f"{row['latency_ratio'] / row['flops_ratio']:.2f}"


def only_if_faster() -> str:
    lines = [
        [
            *(processor, network, row["runtime"], str(row["batch_size"]), str(row["converted"])),
            *(f"{row[key]:.2f}" for key in ("flops_ratio", "latency_ratio")),
        ]
        for processor, network, result in networks()
        for row in result.get("only_if_faster", ())
    ]
    return table(["processor", "network", "runtime", "batch", "sites converted", "times fewer FLOPs", "times faster"], lines)


def memory() -> str:
    """Peak memory and file sizes, original and student; absorbed ghosts where they were measured, else depthwise ones."""
    lines = []
    for processor, network, result in networks():
        if "memory_mib" not in result:
            continue
        arm = "absorbed" if "absorbed" in result["memory_mib"] else "depthwise"
        cells = []
        for runtime in RUNTIMES:
            dense, student = (result["memory_mib"][name][runtime] for name in ("dense", arm))
            cells.append("" if dense is None or student is None else f"{dense:.0f} → {student:.0f}")
        dense_mb, student_mb = (result["file_mb"][name] for name in ("dense", arm))
        files = [f"{dense_mb[kind]} → {student_mb[kind]}" for kind in ("onnx", "pt2", "xml")]
        lines.append([processor, network, arm, *cells, *files])
    runtimes = [f"{runtime}, MiB" for runtime in RUNTIMES]
    return table(["processor", "network", "ghosts", *runtimes, ".onnx, MB", ".pt2, MB", ".xml and .bin, MB"], lines)
