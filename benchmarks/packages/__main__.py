"""Networks of other packages: converted, calibrated, folded, exported, saved and trained.

    python -m benchmarks.packages --environment FOLDER      # run again to go on where it stopped
    python -m benchmarks.packages --environment FOLDER --only 'monai/*' --again

FOLDER is made, with the packages in it, where it is not there yet. Each network, with random weights and norms as after
training, is converted to the paper's Ghost modules (s = 2) and by absorbed ghosts, in a process of its own. A line of
results/packages.jsonl has what became of each step: ``ok``, with how far its network is from the student itself; ``refused``,
with the sentence; or ``fault``: a crash, a wrong result without a word, or a step that did not end.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import versions
from benchmarks.harness.results import RESULTS, Row
from benchmarks.packages.environment import make, variables
from benchmarks.packages.networks import MODULES, NETWORKS
from benchmarks.packages.steps import KINDS, STEPS, examine
from ghostify.deployment.formats import write_onnx

FILE = RESULTS / "packages.jsonl"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--environment", type=Path, required=True, help="where the packages are, or will be installed")
    parser.add_argument("--only", default="*", help="glob over names such as monai/*")
    parser.add_argument("--again", action="store_true", help="also networks that stand in the results")
    parser.add_argument("--faults", action="store_true", help="also networks that stand in the results with a fault")
    parser.add_argument("--seconds", type=int, default=180, help="most that the processor may take for a network")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parse(parser)
    folder = args.environment.absolute()
    python = make(folder)
    if Path(sys.prefix) != folder:
        os.execve(python, [str(python), "-m", "benchmarks.packages", *sys.argv[1:]], variables(folder))
    torch.set_num_threads(1)
    warm_up()
    done = read(args.out)
    for name in NETWORKS:
        rows = done.get(name, [])
        faulty = any(step["result"] == "fault" for row in rows for step in row["steps"].values())
        if fnmatchcase(name, args.only) and (args.again or not rows or (args.faults and faulty)):
            start = time.perf_counter()
            package = name.partition("/")[0]
            import_module(MODULES.get(package, package))
            done[name] = in_process(name, args.out.with_suffix(".part"), args.seconds)
            print(f"{time.perf_counter() - start:5.0f} s {name}", *map(summary, done[name]), sep="\n", flush=True)
            write(args.out, done)


def warm_up() -> None:
    """Import and tabulate, once and before processes are forked, what writing an ONNX file takes."""
    with tempfile.TemporaryDirectory() as folder:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        write_onnx(network, Path(folder) / "warm.onnx", torch.zeros(2, 3, 8, 8), True)


def in_process(name: str, part: Path, seconds: int) -> list[Row]:
    """The rows of a network, a line for each kind, from a process of its own.

    Args:
        name: of the network.
        part: a file for the rows of its steps.
        seconds: of the processor, after which the process is ended.
    """
    part.unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        try:
            with part.open("a") as file:
                for row in rows_of(name):
                    file.write(json.dumps(row) + "\n")
                    file.flush()
        finally:
            os._exit(0)
    _, status = os.waitpid(process, 0)
    end = f"its process was ended by signal {os.WTERMSIG(status)}, after {seconds} s at most"
    rows = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    part.unlink(missing_ok=True)
    return [by_kind(name, kind, [row for row in rows if row["kind"] == kind], end) for kind in KINDS]


def rows_of(name: str) -> Iterator[Row]:
    """The rows of a network; where the original itself can't be built or run, that is the fault of its first step."""
    try:
        yield from examine(NETWORKS[name])
    except Exception as error:  # code of any kind
        for kind in KINDS:
            yield {"kind": kind, "step": "convert", "result": "fault", "text": f"the original: {type(error).__name__}: {error}"}


def by_kind(name: str, kind: str, rows: list[Row], end: str) -> Row:
    """One line of the results: the last row of each step; one that only began is a fault."""
    steps: dict[str, Row] = {} if rows else {"convert": {"result": "fault", "text": end}}
    for row in rows:
        if "trace" in row:
            print(f"--- {name} {kind} {row['step']}\n{row['trace']}", file=sys.stderr, flush=True)
        began = {"result": "fault", "text": end} if row["result"] == "began" else {}
        steps[row["step"]] = {key: value for key, value in row.items() if key not in ("kind", "step", "trace")} | began
    return {"network": name, "kind": kind, "steps": steps, **versions()}


def summary(row: Row) -> str:
    """What became of a network in one line, and a line for each step that did not go well."""
    return "\n".join(lines_of(row))


def lines_of(row: Row) -> Iterator[str]:
    steps = row["steps"]
    words = ", ".join(f"{step} {steps[step]['result']}" for step in STEPS if step in steps)
    reached = steps["convert"].get("reached")
    yield f"   {row['kind']:9s} {words}; reached {'-' if reached is None else f'{reached:.1%}'}"
    for name, step in steps.items():
        if "text" in step:
            yield f"      {name}: {step['text']}"


def read(path: Path) -> dict[str, list[Row]]:
    """The lines of the results by network."""
    done: dict[str, list[Row]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        done.setdefault(row["network"], []).append(row)
    return done


def write(path: Path, done: dict[str, list[Row]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for name in NETWORKS for row in done.get(name, [])))
    temporary.replace(path)


if __name__ == "__main__":
    main()
