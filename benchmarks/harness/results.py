"""Files of results. They are the only place of figures: tables and plots are made of them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
Row = dict[str, Any]


def read_json(name: str) -> Any:
    """What a file holds; an empty dictionary where there is no such file yet."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(name: str, value: Any) -> None:
    (RESULTS / name).write_text(json.dumps(value, indent=1) + "\n")


def read_lines(name: str) -> list[Row]:
    """The rows of a file of JSON lines; none where there is no such file yet."""
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_line(name: str, row: Row) -> None:
    """Write a row as soon as it is measured, so that a benchmark that was interrupted goes on after it."""
    with (RESULTS / name).open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no such file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_row(path: Path, columns: Sequence[str], row: Row) -> None:
    """Write a row of a table as soon as it is measured, with the names of columns above the first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)
