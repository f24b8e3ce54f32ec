"""A table with a row for every model of timm and torchvision, worked out in processes and resumed after an interruption."""

import csv
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torchvision
from rich.progress import track
from torch import nn

import ghostify
from benchmarks.harness.results import append_row, read_csv

Row = dict[str, str]


def by_model(path: Path) -> dict[str, Row]:
    return {row["model"]: row for row in read_csv(path)}


def fill(names: Sequence[str], out: Path, examine: Callable[[str], Any], row_type: type, workers: int) -> list[Row]:
    """The rows of ``names``: those of a table are kept, the others are worked out and written.

    Args:
        names: of models, in the order of the table.
        out: the table; beside it stand the rows of a run that was interrupted.
        examine: makes the row of a model; it lies at the top of a module, since processes of their own call it.
        row_type: the dataclass of a row: ``model``, ``reason`` and others, which have defaults.
        workers: how many processes.
    """
    done, part = by_model(out), out.with_suffix(".part.csv")
    done |= by_model(part)
    todo = [name for name in names if name not in done]
    columns = [field.name for field in fields(row_type)]
    for outcome in track(_outcomes(todo, examine, row_type, workers), total=len(todo), description="models"):
        append_row(part, columns, asdict(outcome))
        done[outcome.model] = {k: "" if v is None else str(v) for k, v in asdict(outcome).items()}
    rows = [done[name] for name in names if name in done]
    _write(out, columns, rows)
    part.unlink(missing_ok=True)
    return rows


def _write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def family_of(name: str) -> str:
    """The file of the library that builds a model, such as ``timm/resnet``."""
    library, _, bare = name.partition("/")
    builder = timm.model_entrypoint(bare) if library == "timm" else torchvision.models.get_model_builder(bare)
    return f"{library}/{builder.__module__.removeprefix(f'{library}.models.')}"


def build(name: str) -> tuple[nn.Module, bool]:
    """The model, and whether it stands on the meta device."""
    try:
        model = ghostify.create_model(name, device="meta")
        if all(t.is_meta for t in [*model.parameters(), *model.buffers()]) and "/detection" not in type(model).__module__:
            return model.eval(), True
    except Exception as error:
        logging.debug("%s does not build on the meta device: %s", name, error)
    return ghostify.create_model(name).eval(), False


def _outcomes(todo: Sequence[str], examine: Callable[[str], Any], row_type: type, workers: int) -> Iterator[Any]:
    """Results as they come; a model that kills its process (memory) is recorded, and the others go on."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    waiting = list(todo)
    while waiting:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        futures = {pool.submit(examine, name): name for name in waiting}
        try:
            for future in as_completed(futures):
                outcome = future.result()
                waiting.remove(outcome.model)
                yield outcome
        except BrokenProcessPool:
            victim = waiting.pop(0)
            yield row_type(victim, reason="its process was killed")
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def is_mostly_convolution(model: nn.Module) -> bool:
    """Whether more than half of a model's parameters stand in convolutions."""
    convolutions = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return convolutions > sum(p.numel() for p in model.parameters()) / 2
