"""Write the tables of the benchmarks into the README and docs/, between the comments that name them.

python -m benchmarks.readme           # write
python -m benchmarks.readme --check   # exit code 1 if they say anything else
"""

import re
import sys
from pathlib import Path

from benchmarks import package, zoo, zoo_verified
from benchmarks.calibration import absorbed_tables, accuracy_tables, cost
from benchmarks.compression import bad_input, demo
from benchmarks.conversion import budget, budget_costs, checks, paper, spans, speed, warm_start
from benchmarks.deployment import forms, int8, latency_accuracy, latency_gpu, latency_tables, widths
from benchmarks.distillation import overhead, recovery_tables
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.results import ROOT
from benchmarks.packages import tables as packages
from benchmarks.students import bad_files, round_trips
from benchmarks.tasks import dense

BENCHMARKS = (
    *(
        zoo,
        zoo_verified,
        spans,
        paper,
        warm_start,
        speed,
        checks,
        budget,
        budget_costs,
        accuracy_tables,
        absorbed_tables,
        cost,
        recovery_tables,
        overhead,
        dense,
    ),
    *(latency_tables, forms, int8, latency_accuracy, latency_gpu, widths, bad_files, round_trips),
    demo,
    bad_input,
    packages,
    package,
)
PLACE = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables() -> dict[str, str]:
    """All tables by name."""
    return {name: text for benchmark in BENCHMARKS for name, text in benchmark.tables().items()}


def stale() -> dict[Path, str]:
    """Files that say anything else than the results, with the text that they should have."""
    by_name = tables()
    placed: list[str] = []
    changed: dict[Path, str] = {}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = path.read_text()
        placed += [name for _, name, _ in PLACE.findall(old)]
        new = PLACE.sub(lambda place: f"{place[1]}{by_name[place[2]]}\n{place[3]}", old)
        if new != old:
            changed[path] = new
    if sorted(placed) != sorted(by_name):
        raise SystemExit(f"tables and places for them differ: {sorted(set(placed) ^ set(by_name)) or 'a name stands twice'}")
    return changed


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--check", action="store_true")
    args = parse(parser)
    changed = stale()
    if args.check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
        sys.exit(f"{names} differ from benchmarks/results/: run python -m benchmarks.readme" if changed else 0)
    for path, text in changed.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
