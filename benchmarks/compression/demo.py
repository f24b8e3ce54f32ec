"""The table of ``ghostify demo``: a small network of handwritten digits before and after.

    python -m benchmarks.compression.demo          # a minute on a quiet core

Writes results/demo.json.
"""

from benchmarks.harness.arguments import argument_parser, parse
from benchmarks.harness.machine import seconds_of, versions_line
from benchmarks.harness.markdown import table
from benchmarks.harness.results import read_json, write_json
from ghostify.demo import MAX_DROP, run_demo, trained_cnn
from ghostify.deployment.timing import machine

RESULTS = "demo.json"


def main() -> None:
    parse(argument_parser(__doc__))
    model, training_seconds = seconds_of(trained_cnn)
    report = run_demo(model)
    print(report)
    result = {
        "rows": report.before_and_after().rows,
        "judging": report.judging,
        "runtime": report.runtime,
        "seconds": round(training_seconds + report.seconds, 1),
        "machine": machine(),
        "about": versions_line(),
    }
    write_json(RESULTS, result)


def tables() -> dict[str, str]:
    result = read_json(RESULTS)
    rows = table(["", "before", "after", "change"], result["rows"])
    note = f"{result['judging']} digits held out, of which {MAX_DROP:.0%} may be lost; time in PyTorch, {result['runtime']}."
    return {"demo": f"{rows}\n\n{note}"}


if __name__ == "__main__":
    main()
