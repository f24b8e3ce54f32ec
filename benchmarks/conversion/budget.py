"""Ratios chosen by a budget beside one ratio for all, at equal FLOPs; the allocation against an integer program; costs.

    python -m benchmarks.conversion.budget --data DIR --models FILE --imagenet DIR [--section NAME]

DIR, FILE and the pictures are those of calibration/accuracy.py. ``accuracy``: the largest uniform student within 0.4, 0.5
and 0.6 of FLOPs, and students of exactly its FLOPs whose ratios are chosen by sensitivities measured on the calibration
images, or by the weights alone; all calibrated in the same way on the same images. ``solver``: 1,000 random instances, and
the site count of the largest model of the zoo. ``cost``: sensitivities of resnet50; ``scaling``: one process and two.
``sweep``: 10,000 recorded trials. Each accuracy is one line of results/budget.jsonl, and none that stands there is measured
again; all else goes into results/budget_costs.json.
"""

import argparse
import csv
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ghostify
from benchmarks.calibration.accuracy import CIFAR, Bench, percent, predict
from benchmarks.conversion.instances import least_loss, random_instance
from ghostify.common.costs import measure
from ghostify.common.files import write_text
from ghostify.conversion.allocate import allocate
from ghostify.exploration.trial import Result, Trial

RESULTS = Path(__file__).parents[1] / "results"
RATIOS = (1.25, 1.5, 2, 3, 4, 8)
ARMS = ("uniform", "sensitivity", "weights")


@dataclass(frozen=True)
class Run:
    network: str
    share: float
    arm: str
    method: str = "least_squares"
    seed: int = 0

    @property
    def key(self) -> str:
        return json.dumps([self.network, self.share, self.arm, self.method, self.seed])


def runs() -> Iterator[Run]:
    for network in (*CIFAR, "resnet18"):
        for share in (0.5, 0.4, 0.6):
            for arm in ARMS:
                yield Run(network, share, arm)
    for seed in (1, 2):
        for network in CIFAR:
            for arm in ARMS[:2]:
                yield Run(network, 0.5, arm, seed=seed)
    for network in CIFAR:
        for arm in ARMS[:2]:
            yield Run(network, 0.5, arm, "block")


class Budgets(Bench):
    def uniform(self, network: str, share: float) -> nn.Module:
        """The largest student of one ratio within the share."""
        return ghostify.convert(self.teacher(network), self.uniform_ratio(network, share), cheap="auto")

    @cache  # noqa: B019
    def uniform_ratio(self, network: str, share: float) -> float:
        teacher, example = self.teacher(network), self.example(network)
        dense = measure(teacher, (example,)).flops
        for ratio in np.arange(1.1, 5, 0.01):
            student = ghostify.convert(teacher, round(float(ratio), 2), cheap="auto")
            if measure(student, (example,)).flops <= share * dense:
                return round(float(ratio), 2)
        raise AssertionError("no ratio up to 5 is enough")

    def chosen(self, run: Run, flops: int) -> nn.Module:
        """A student of no more FLOPs, its ratios chosen site by site."""
        teacher = self.teacher(run.network)
        few = self.split(run.network, run.seed, 256 if run.network in CIFAR else 250)[0]
        found = None
        if run.arm == "sensitivity":
            path = self.data / "sensitivities" / f"{run.network}_{run.seed}_{len(few)}.json"
            found = ghostify.sensitivity(teacher, few, RATIOS, cheap="auto", out=path, progress=True)
        return ghostify.convert(
            teacher, target={"flops": flops}, cheap="auto", sensitivity=found, example_input=self.example(run.network)
        )

    def measured(self, run: Run) -> dict[str, Any]:
        teacher, example = self.teacher(run.network), self.example(run.network)
        dense = measure(teacher, (example,)).flops
        student = self.uniform(run.network, run.share)
        if run.arm != "uniform":
            student = self.chosen(run, measure(student, (example,)).flops)
        planned = measure(student, (example,)).flops / dense
        few, _, images, labels = self.split(run.network, run.seed, 256 if run.network in CIFAR else 250)
        start = time.perf_counter()
        ghostify.calibrate(student, teacher, few, method=run.method, seed=run.seed)
        seconds = time.perf_counter() - start
        given, wanted = predict(student, images), self.answers(run.network, run.seed, False)
        return {
            "network": run.network, "share": run.share, "arm": run.arm, "method": run.method, "seed": run.seed,
            "base": percent(wanted == labels), "top1": percent(given == labels), "agreement": percent(given == wanted),
            "planned_share": round(planned, 4), "flops_share": round(measure(student, (example,)).flops / dense, 4),
            "seconds": round(seconds, 1),
            "about": f"ghostify {ghostify.__version__}, torch {torch.__version__}, python {platform.python_version()}",
        }  # fmt: skip


def accuracy(bench: Budgets) -> None:
    path = RESULTS / "budget.jsonl"
    for run in runs():
        done = [json.loads(line)["key"] for line in path.read_text().splitlines()] if path.exists() else []
        if run.key not in done:
            row = bench.measured(run)
            with path.open("a") as file:
                file.write(json.dumps({"key": run.key, **row}) + "\n")
            print(f"{run.key}: {row['top1']} (base {row['base']}), {row['flops_share']:.1%} of FLOPs", flush=True)


def solver() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    above, seconds = [], []
    for _ in range(1000):
        choices = random_instance(generator, generator.integers(2, 60), generator.integers(2, 12))
        least, most = (sum(pick(option.cost for option in options) for options in choices) for pick in (min, max))
        budget = least + (most - least) * generator.uniform(0.02, 0.98)
        start = time.perf_counter()
        found = allocate(choices, budget)
        seconds.append(time.perf_counter() - start)
        assert found is not None
        assert sum(option.cost for option in found) <= budget
        best = least_loss(choices, budget)
        above.append(sum(option.loss for option in found) / best - 1 if best > 0 else 0.0)
    with (RESULTS / "zoo.csv").open(newline="") as file:
        sites = max(int(row["sites"] or 0) for row in csv.DictReader(file))
    large = []
    for _ in range(20):
        choices = random_instance(generator, sites, 25)
        start = time.perf_counter()
        allocate(choices, generator.uniform(0.3, 0.9) * sum(options[-1].cost for options in choices))
        large.append(time.perf_counter() - start)
    return {
        "instances": len(above), "largest_excess": max(above), "mean_excess": statistics.mean(above),
        "longest_s": round(max(seconds), 4), "most_sites_in_zoo": sites, "longest_s_at_that": round(max(large), 3),
    }  # fmt: skip


def cost(bench: Budgets, threads: int) -> dict[str, Any]:
    """Sensitivities of torchvision's resnet50 at four ratios on 64 pictures."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    images = bench.pictures()[0][:64]
    ghostify.reestimate_norms(model, images, batch_size=32)
    rows = {}
    for name, workers in (("one_worker", 1), ("two_workers", 2)):
        start = time.perf_counter()
        found = ghostify.sensitivity(model, images, workers=workers, progress=True)
        rows[name] = round(time.perf_counter() - start, 1)
        print(name, rows[name], flush=True)
    return {
        "sites": len(found.sites), "ratios": len(found.header.ratios), "images": 64, "threads": threads, "seconds": rows,
        "two_workers_times_faster": round(rows["one_worker"] / rows["two_workers"], 2),
    }  # fmt: skip


def scaling(bench: Budgets) -> dict[str, Any]:
    """Sensitivities of resnet18 in one process and in two, each with one thread."""
    model, images = bench.teacher("resnet18"), bench.pictures()[0][:64]
    rows = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for workers in (1, 2):
        start = time.perf_counter()
        ghostify.sensitivity(model, images, workers=workers)
        rows[workers] = round(time.perf_counter() - start, 1)
    torch.set_num_threads(threads)
    return {"network": "resnet18", "one_process_s": rows[1], "two_processes_s": rows[2], "times": round(rows[1] / rows[2], 2)}


def sweep() -> dict[str, Any]:
    """10,000 recorded trials: read, front, plot."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "sweep.json", "{}")
        for number in range(10000):
            share = float(generator.uniform(0.2, 0.9))
            result = Result(
                {"model": "net", "ratio": 1.1 + number / 1000}, 10, 100, share, share, share, share * 0.9, share, 1.0
            )
            write_text(folder / "trials" / Trial(result.settings).name / "trial.json", result.to_json())
        import matplotlib as mpl

        mpl.use("Agg")
        start = time.perf_counter()
        found = ghostify.SweepResult.load(folder)
        read = time.perf_counter() - start
        found.plot().figure.savefig(folder / "front.png")
        drawn = time.perf_counter() - start
        found.to_html(folder / "page.html")
        return {
            "trials": len(found.results), "read_s": round(read, 2), "read_and_plot_s": round(drawn, 2),
            "with_page_s": round(time.perf_counter() - start, 2),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "models", "imagenet"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--section", choices=("accuracy", "solver", "cost", "scaling", "sweep"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bench = Budgets(args.data, args.models, args.imagenet)
    path = RESULTS / "budget_costs.json"
    facts = json.loads(path.read_text()) if path.exists() else {}
    sections = {"solver": solver, "sweep": sweep, "cost": lambda: cost(bench, args.threads), "scaling": lambda: scaling(bench)}
    for name, run in sections.items():
        if args.section in (None, name):
            facts[name] = run()
            facts["about"] = f"torch {torch.__version__}, python {platform.python_version()}"
            path.write_text(json.dumps(facts, indent=1) + "\n")
            print(name, facts[name], flush=True)
    if args.section in (None, "accuracy"):
        accuracy(bench)


if __name__ == "__main__":
    main()
