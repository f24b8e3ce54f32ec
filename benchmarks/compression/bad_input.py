"""What ``compress`` says of input that it can't use, in its own words.

    python -m benchmarks.compression.bad_input          # a minute

The demo's network of handwritten digits. Writes results/compress_bad_input.json.
"""

import warnings
from typing import Any

from torch import nn

import ghostify
from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.markdown import table
from benchmarks.harness.results import read_json, write_json
from ghostify.demo import digits, trained_cnn

RESULTS = "compress_bad_input.json"
(IMAGES, _), (X, Y) = digits()

CASES: dict[str, dict[str, Any]] = {
    "neither target nor max_drop": {},
    "both": {"target": {"flops": 0.5}, "max_drop": 0.02, "val": (X, Y)},
    "a drop of 0": {"max_drop": 0, "val": (X, Y)},
    "a drop of 1": {"max_drop": 1, "val": (X, Y)},
    "labels that the model does not have": {"max_drop": 0.02, "val": (X, Y + 5)},
    "labels in another order": {"max_drop": 0.02, "val": (X, (Y + 3) % 10)},
    "fewer labels than images": {"max_drop": 0.02, "val": (X, Y[:100])},
    "too few images to tell": {"max_drop": 0.01, "val": (X[:100], Y[:100])},
    "val equal to images": {"target": {"flops": 0.5}, "val": (X, Y), "images": X},
    "a runtime that there is not": {"max_drop": 0.02, "val": (X, Y), "runtime": "tensorrt"},
    "a runtime that is not there": {"max_drop": 0.02, "val": (X, Y), "runtime": "cuda"},
    "a time, and no runtime": {"target": {"latency": 0.6}},
    "FLOPs out of reach": {"target": {"flops": 0.001}},
    "a time out of reach": {"target": {"latency": 0.02}, "runtime": "eager"},
}


def answer(model: nn.Module, arguments: dict[str, Any]) -> tuple[str, str]:
    """Whether it refuses or warns, and the sentence."""
    options = {"images": IMAGES, **arguments}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            ghostify.compress(model, options.pop("images"), **options)
        except ghostify.GhostifyError as error:
            return "refused", str(error)
    return ("warned", str(told[0].message)) if told else ("taken", "")


def main() -> None:
    parse(argument_parser(__doc__))
    model, rows = trained_cnn(), {}
    for case, arguments in CASES.items():
        rows[case] = answer(model, arguments)
        print(case, rows[case], flush=True)
    write_json(RESULTS, rows)


def tables() -> dict[str, str]:
    lines = [[case, verdict, sentence] for case, (verdict, sentence) in read_json(RESULTS).items()]
    return {"compress_bad_input": table(["input", "", "in its words"], lines)}


if __name__ == "__main__":
    main()
