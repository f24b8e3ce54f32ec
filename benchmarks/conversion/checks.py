"""What it costs convert to check what it traced, and to rehearse its plan: CPU seconds of one thread, without both and before.

    python -m benchmarks.conversion.checks [--before FOLDER] [--rounds 5]

FOLDER is a checkout of ghostify from before recorded graphs and rehearsals came (commit 6d214b1), which converts the same
networks in turn with this one, each time in a process of its own. Without checks means a network of which no input is known.
The rehearsal's share is what it takes of all that convert takes, the pass in which the trace is checked included. Writes
results/convert_checks.json, with the best of each kind: other work on the machine only ever adds.
"""

import gc
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision
from torch import nn

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import versions
from benchmarks.harness.markdown import table
from benchmarks.harness.results import ROOT, Row, read_json, write_json
from ghostify.conversion import rehearsal
from ghostify.conversion.rehearsal import Rehearsal

RESULTS = "convert_checks.json"
NETWORKS = ("resnet50", "densenet121")
PARTS = ("__init__", "_run_own", "findings")  # of a rehearsal, none of which calls another
IN_A_PROCESS = """
import sys, time, warnings, torch, torchvision, ghostify
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
times = []
for _ in range(3):
    network = torchvision.models.get_model(sys.argv[1]).eval()
    start = time.process_time()
    ghostify.convert(network)
    times.append(time.process_time() - start)
print(min(times[1:]))
"""


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name).eval()


def seconds(name: str) -> tuple[float, float]:
    """What convert takes, and its rehearsal alone."""
    spent = 0.0

    def timed(method: str):
        plain = getattr(Rehearsal, method)

        def call(*args, **kwargs):
            nonlocal spent
            start = time.process_time()
            try:
                return plain(*args, **kwargs)
            finally:
                spent += time.process_time() - start

        return patch.object(Rehearsal, method, call)

    model = network(name)
    gc.collect()
    with timed(PARTS[0]), timed(PARTS[1]), timed(PARTS[2]):
        start = time.process_time()
        ghostify.convert(model)
        return time.process_time() - start, spent


def seconds_in_process(folder: Path, name: str) -> float:
    """What convert takes in a checkout of ghostify."""
    command = [sys.executable, "-c", IN_A_PROCESS, name]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def measured(name: str, rounds: int, before: Path | None) -> Row:
    turns = []
    for _ in range(rounds + 1):
        checked, rehearsed = seconds(name)
        with patch.object(rehearsal, "_inputs", lambda *_: iter(())):
            unchecked, _ = seconds(name)
        turns.append((checked, rehearsed, unchecked))
    checked, rehearsed, unchecked = (min(some) for some in zip(*turns[1:], strict=True))  # the first warms up
    row: Row = {
        "model": name,
        "convert_s": round(checked, 3),
        "rehearsal_share": round(rehearsed / checked, 3),
        "unchecked_s": round(unchecked, 3),
        "times_unchecked": round(checked / unchecked, 2),
    }
    if before is not None:
        pairs = [(seconds_in_process(before, name), seconds_in_process(ROOT, name)) for _ in range(rounds)]
        old, new = (min(some) for some in zip(*pairs, strict=True))
        row |= {"before_s": round(old, 3), "now_s": round(new, 3), "times_before": round(new / old, 2)}
    return row


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, default=None)
    args = parse(parser)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in NETWORKS:
        rows.append(measured(name, args.rounds, args.before and args.before.resolve()))
        print(rows[-1], flush=True)
    write_json(RESULTS, {"about": {**versions(), "threads": 1, "rounds": args.rounds, "before": "6d214b1"}, "rows": rows})


def tables() -> dict[str, str]:
    lines = [
        [
            row["model"],
            f"{row['convert_s']:.2f} s",
            f"{100 * row['rehearsal_share']:.0f} %",
            f"{row['unchecked_s']:.2f} s",
            f"{row['times_unchecked']:.2f}",
            f"{row['before_s']:.2f} s and {row['now_s']:.2f} s: {row['times_before']:.2f}",
        ]
        for row in read_json(RESULTS)["rows"]
    ]
    header = ["model", "convert", "of it rehearsal", "without checks", "times without", "before and now, in turns"]
    return {"convert_checks": table(header, lines)}


if __name__ == "__main__":
    main()
