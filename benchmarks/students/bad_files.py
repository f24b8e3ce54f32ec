"""In what time a damaged or lying file is refused, and in what memory.

    python -m benchmarks.students.bad_files

A student of ResNet-50, saved; then 100 flipped bits, 100 truncations, headers that lie, and files of other kinds, each loaded.
Writes results/bad_files.json: for each kind how many, how many were refused and the longest time; and how much higher memory
stood at its peak than after loading the sound file.
"""

import json
import pickle
import random
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import peak_mib
from benchmarks.harness.markdown import table
from benchmarks.harness.results import Row, read_json, write_json

RESULTS = "bad_files.json"
FIRST = "conv1.weight"
Damage = tuple[str, bytes]
Lie = Callable[[dict[str, Any], dict[str, Any]], None]


def with_header(whole: bytes, lie: Lie) -> bytes:
    """The file with another header; ``lie`` gets the header and what ghostify wrote into it, to change them."""
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    ghostify_header = json.loads(header["__metadata__"]["ghostify"])
    lie(header, ghostify_header)
    header["__metadata__"]["ghostify"] = json.dumps(ghostify_header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


def shape(header: dict[str, Any], ghostify_header: dict[str, Any]) -> None:
    header[FIRST]["shape"] = [64, 3, 49]


def giant(header: dict[str, Any], ghostify_header: dict[str, Any]) -> None:
    header[FIRST]["shape"] = [10_000_000_000 // 4]
    header[FIRST]["data_offsets"] = [0, 10_000_000_000]


def sites(header: dict[str, Any], ghostify_header: dict[str, Any]) -> None:
    for site in ghostify_header["recipe"]["sites"]:
        site["intrinsic"] = 10_000_000 if site["intrinsic"] else 0


def newer(header: dict[str, Any], ghostify_header: dict[str, Any]) -> None:
    ghostify_header["recipe"]["format"] = 99


def other(header: dict[str, Any], ghostify_header: dict[str, Any]) -> None:
    ghostify_header["architecture"]["name"] = "torchvision/resnet101"


LIES: dict[str, Lie] = {
    "a shape that lies": shape,
    "10 GB claimed in the header": giant,
    "sites that lie": sites,
    "a newer format": newer,
    "another architecture": other,
}


def damages(whole: bytes) -> Iterator[Damage]:
    chance = random.Random(0)
    for _ in range(100):
        at = chance.randrange(len(whole))
        yield "a flipped bit", whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
    for _ in range(100):
        yield "truncated", whole[: chance.randrange(len(whole))]
    for name, lie in LIES.items():
        yield name, with_header(whole, lie)
    yield "a header of 10 GB", struct.pack("<Q", 10_000_000_000) + whole[8:]
    yield "a pickle", pickle.dumps({"weights": list(range(1000))})


def refused(path: Path) -> bool:
    try:
        ghostify.load(path)
    except ghostify.GhostifyError:
        return True
    return False


def main() -> None:
    parse(argument_parser(__doc__))
    kinds: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        ghostify.save(ghostify.convert("torchvision/resnet50", 2), path)
        ghostify.load(path)  # what is imported once is not what a bad file costs
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + whole[-1:])  # the copies that are made here are not what is measured
        before = peak_mib()
        for kind, damaged in damages(whole):
            path.write_bytes(damaged)
            start = time.perf_counter()
            was_refused = refused(path)
            seconds = time.perf_counter() - start
            row = kinds.setdefault(kind, {"files": 0, "refused": 0, "longest_s": 0.0})
            row["files"] += 1
            row["refused"] += was_refused
            row["longest_s"] = round(max(row["longest_s"], seconds), 3)
        growth = peak_mib() - before
    result = {"bytes": len(whole), "memory_grown_mib": round(growth, 1), "kinds": kinds}
    write_json(RESULTS, result)
    print(json.dumps(result, indent=1))


def tables() -> dict[str, str]:
    result = read_json(RESULTS)
    lines = [[kind, f"{r['refused']} of {r['files']}", f"{r['longest_s']:.2f} s"] for kind, r in result["kinds"].items()]
    note = (
        f"A student of ResNet-50 ({result['bytes'] / 1e6:.0f} MB); memory stood at most {result['memory_grown_mib']:.0f} MiB "
        "higher than after loading the sound file."
    )
    return {"bad_files": f"{table(['file', 'refused', 'longest time'], lines)}\n\n{note}"}


if __name__ == "__main__":
    main()
