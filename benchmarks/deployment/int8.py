"""Int8: what quantization by the runtimes' own tools costs and gains, original and student.

    python -m benchmarks.deployment.int8 --data DIR --models FILE --imagenet DIR [--threads 2]

The folders are those of accuracy.py. ResNet-18 with ImageNet weights; the student at ratio 2, ``cheap="auto"``, calibrated
in closed form on 250 pictures (``align=True``), 64 of which also set the scales; top-1 on the other 250. Each network in float
and int8, in ONNX Runtime and OpenVINO, batch 1, in turns. ``sums`` is the student folded first, so that convolutions are sums
of two, each rounded by itself; where ``export`` refuses that since outputs differ too much, its
words. Writes results/int8.json.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ghostify
from benchmarks.calibration.accuracy import Bench, percent
from ghostify.deployment.formats import onnx_session, openvino_request
from ghostify.deployment.timing import in_turns, machine

RESULTS = Path(__file__).parents[1] / "results" / "int8.json"
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "imagenet"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(args.data, args.models, args.imagenet)
    teacher = bench.teacher("resnet18")
    few, _, pictures, labels = bench.split("resnet18", 0, 250)
    student = ghostify.convert(teacher, 2, cheap="auto")
    ghostify.calibrate(student, teacher, few, method="least_squares", align=True, progress=True)
    student.eval()
    networks = {
        "original": (teacher, None), "student": (student, None), "original, int8": (teacher, few[:64]),
        "student, int8": (student, few[:64]), "student, int8, sums": (ghostify.fold(student), few[:64]),
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for runtime, suffix in SUFFIXES.items():
        loads, found = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, (model, images)) in enumerate(networks.items()):
                path = Path(folder) / f"{number}{suffix}"
                try:
                    ghostify.export(model, path, example_input=pictures[:1], int8=images)
                except ghostify.GhostifyError as error:
                    if "other outputs" not in str(error):
                        raise
                    rows.append({"runtime": runtime, "network": name, "refused": str(error)})
                    print(rows[-1], flush=True)
                    continue
                files = [path, path.with_suffix(".bin")] if suffix == ".xml" else [path]
                open_file: Any = onnx_session if suffix == ".onnx" else openvino_request
                loads[name] = partial(open_file, path if suffix == ".onnx" else str(path), args.threads)
                run = loads[name]()
                scores = torch.cat([run(picture)[0] for picture in pictures.split(1)])
                exact = found.get("student" if name.startswith("student") else "original", (scores,))[0]
                found[name] = (scores, sum(file.stat().st_size for file in files) / 1e6, exact)
            seconds = in_turns(loads, pictures[:1], args.repeats)
        for name, (scores, megabytes, exact) in found.items():
            rows.append(
                {
                    "runtime": runtime, "network": name, "top1": percent(scores.argmax(1) == labels),
                    "off": round(float((scores - exact).norm() / exact.norm()), 4), "file_mb": round(megabytes, 1),
                    "ms": round(1e3 * sorted(seconds[name])[args.repeats // 2], 2),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    about = {"machine": machine(), "threads": args.threads, "pictures": len(pictures)}
    RESULTS.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
