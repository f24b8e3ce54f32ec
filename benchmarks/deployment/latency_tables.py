"""Tables of latency, memory and file sizes."""

from collections.abc import Iterator
from typing import Any

from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json

RUNTIMES = ("openvino", "onnxruntime", "compile", "channels_last", "eager")
ARMS = ("depthwise", "auto", "pruned")


def tables() -> dict[str, str]:
    return {"latency": latency(), "only_if_faster": only_if_faster(), "memory": memory()}


def networks() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Processor, network, and what was measured there."""
    for processor, results in read_json("latency.json").items():
        for network, result in results.items():
            yield processor, network, result


def times_faster(row: Row) -> str:
    return "" if row["latency_ratio"] is None else f"{row['latency_ratio']:.2f}"


def latency() -> str:
    """How many times faster than the original: students with depthwise ghosts, with those of "auto", and pruned networks."""
    lines = []
    for processor, network, result in networks():
        for size in (1, 8):
            rows = {(r["model"], r["runtime"]): r for r in result["rows"] if r["batch_size"] == size}
            arms = [arm for arm in ARMS if any(model == arm for model, _ in rows)]
            flops = " / ".join(f"{rows[arm, 'eager']['flops_ratio']:.2f}" for arm in arms)
            cells = [" / ".join(times_faster(rows[arm, runtime]) for arm in arms) for runtime in RUNTIMES]
            lines.append([processor, network, str(size), flops, *cells])
    return table(["processor", "network", "batch", "times fewer FLOPs", *RUNTIMES], lines)


def only_if_faster() -> str:
    lines = [
        [
            *(processor, network, row["runtime"], str(row["batch_size"]), str(row["converted"])),
            *(f"{row[key]:.2f}" for key in ("flops_ratio", "latency_ratio")),
        ]
        for processor, network, result in networks()
        for row in result["only_if_faster"]
    ]
    return table(["processor", "network", "runtime", "batch", "sites converted", "times fewer FLOPs", "times faster"], lines)


def memory() -> str:
    """Peak memory and file sizes, original and student."""
    lines = []
    for processor, network, result in networks():
        cells = []
        for runtime in RUNTIMES:
            dense, student = (result["memory_mib"][arm][runtime] for arm in ("dense", "depthwise"))
            cells.append("" if dense is None or student is None else f"{dense:.0f} → {student:.0f}")
        dense_mb, student_mb = (result["file_mb"][arm] for arm in ("dense", "depthwise"))
        files = [f"{dense_mb[kind]} → {student_mb[kind]}" for kind in ("onnx", "pt2", "xml")]
        lines.append([processor, network, *cells, *files])
    runtimes = [f"{runtime}, MiB" for runtime in RUNTIMES]
    return table(["processor", "network", *runtimes, ".onnx, MB", ".pt2, MB", ".xml and .bin, MB"], lines)
