"""In what time a damaged or lying file is refused, and in what memory.

    python -m benchmarks.students.bad_files

A student of ResNet-50, saved; then 100 flipped bits, 100 truncations, headers that lie, and files of other kinds, each loaded.
Writes results/bad_files.json: for each kind how many, how many were refused and the longest time; and how much higher memory
stood at its peak than after loading the sound file.
"""

import json
import pickle
import random
import resource
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ghostify

RESULTS = Path(__file__).parents[1] / "results" / "bad_files.json"
Damage = tuple[str, bytes]


def with_header(whole: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """The file with another header; ``change`` gets the header and what ghostify wrote into it."""
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    told = json.loads(header["__metadata__"]["ghostify"])
    change(header, told)
    header["__metadata__"]["ghostify"] = json.dumps(told)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


def damages(whole: bytes) -> Iterator[Damage]:
    chance = random.Random(0)
    for _ in range(100):
        at = chance.randrange(len(whole))
        yield "a flipped bit", whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :]
    for _ in range(100):
        yield "truncated", whole[: chance.randrange(len(whole))]
    first = "conv1.weight"

    def shape(header: dict[str, Any], told: dict[str, Any]) -> None:
        header[first]["shape"] = [64, 3, 49]

    def giant(header: dict[str, Any], told: dict[str, Any]) -> None:
        header[first]["shape"] = [10_000_000_000 // 4]
        header[first]["data_offsets"] = [0, 10_000_000_000]

    def sites(header: dict[str, Any], told: dict[str, Any]) -> None:
        for site in told["recipe"]["sites"]:
            site["intrinsic"] = 10_000_000 if site["intrinsic"] else 0

    def newer(header: dict[str, Any], told: dict[str, Any]) -> None:
        told["recipe"]["format"] = 99

    def other(header: dict[str, Any], told: dict[str, Any]) -> None:
        told["architecture"]["name"] = "torchvision/resnet101"

    lies = {
        "a shape that lies": shape, "10 GB claimed in the header": giant, "sites that lie": sites, "a newer format": newer,
        "another architecture": other,
    }  # fmt: skip
    for name, change in lies.items():
        yield name, with_header(whole, change)
    yield "a header of 10 GB", struct.pack("<Q", 10_000_000_000) + whole[8:]
    yield "a pickle", pickle.dumps({"weights": list(range(1000))})


def main() -> None:
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.safetensors"
        ghostify.save(ghostify.convert("torchvision/resnet50", 2), path)
        ghostify.load(path)  # what is imported once is not what a bad file costs
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + whole[-1:])  # the copies that are made here are not what is measured
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for kind, damaged in damages(whole):
            path.write_bytes(damaged)
            start = time.perf_counter()
            try:
                ghostify.load(path)
                refused = False
            except ghostify.GhostifyError:
                refused = True
            seconds = time.perf_counter() - start
            row = found.setdefault(kind, {"files": 0, "refused": 0, "longest_s": 0.0})
            row["files"] += 1
            row["refused"] += refused
            row["longest_s"] = round(max(row["longest_s"], seconds), 3)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    result = {"bytes": len(whole), "memory_grown_mib": round(grown, 1), "kinds": found}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
