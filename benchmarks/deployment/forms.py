"""What folding, aligned channels and maps kept apart are worth: ResNet-50 with and without each, on every runtime.

    python -m benchmarks.deployment.forms [--threads 2] [--repeats 7]

The network and its calibration are those of latency.py. Writes results/latency_forms.json.
"""

import json
from unittest.mock import patch

from torch import nn

import ghostify
from benchmarks.deployment.latency import BATCHES, dense_network
from benchmarks.deployment.latency_tables import RUNTIMES, times_faster
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.results import read_json, write_json
from ghostify.deployment import part_folder

RESULTS = "latency_forms.json"


def forms(name: str) -> dict[str, nn.Module]:
    """One student in the forms that it can be run in."""
    dense, noise = dense_network(name)
    models: dict[str, nn.Module] = {"original": ghostify.fold(dense)}
    for suffix, align in (("", False), (", aligned", True)):
        student = ghostify.convert(dense, 2).eval()
        ghostify.calibrate(student, dense, noise, method="least_squares", batch_size=4, align=align)
        if not align:
            models["as converted"] = student
        with patch.object(part_folder, "part_maps"):
            models[f"norms and orders folded{suffix}"] = ghostify.fold(student)
        models[f"and maps apart{suffix}"] = ghostify.fold(student)
    return models


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    add_threads(parser, 2)
    args = parse(parser)
    report = ghostify.latency(
        forms("resnet50"),
        (3, 224, 224),
        batch_sizes=BATCHES,
        threads=args.threads,
        repeats=args.repeats,
        fold=False,
        progress=True,
    )
    print(report)
    rows = json.loads(report.to_json())["timings"]
    write_json(RESULTS, {"rows": rows, "machine": report.machine, "threads": args.threads})


def tables() -> dict[str, str]:
    """What folding, aligning and keeping maps apart are worth, each on each runtime."""
    rows = read_json(RESULTS)["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    lines = []
    for size in (1, 8):
        for model in models[1:]:
            timed = {r["runtime"]: r for r in rows if r["batch_size"] == size and r["model"] == model}
            lines.append([str(size), model, *(times_faster(timed[runtime]) for runtime in RUNTIMES)])
    return {"forms": table(["batch", "form", *RUNTIMES], lines)}


if __name__ == "__main__":
    main()
