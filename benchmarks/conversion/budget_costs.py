"""What budgets cost: the allocation beside an integer program, sensitivities in one process and in two, and a large sweep.

    python -m benchmarks.conversion.budget_costs --data DIR --models FILE --imagenet DIR [--section NAME] [--threads 2]

``solver``: 1,000 random instances, and the site count of the largest model of the zoo. ``cost``: sensitivities of resnet50;
``scaling``: one process and two, of one thread each. ``sweep``: 10,000 recorded trials. All goes into
results/budget_costs.json.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import torchvision

import ghostify
from benchmarks.conversion.instances import least_loss, random_instance
from benchmarks.harness.arguments import add_threads, argument_parser, parse
from benchmarks.harness.machine import seconds_of, versions
from benchmarks.harness.networks import Networks
from benchmarks.harness.results import RESULTS as FOLDER
from benchmarks.harness.results import Row, read_csv, read_json, write_json
from ghostify.common.files import write_text
from ghostify.conversion.allocate import allocate
from ghostify.exploration.trial import Trial, TrialResult

RESULTS = "budget_costs.json"


def solver(networks: Networks) -> Row:
    generator = np.random.default_rng(0)
    excesses, seconds = [], []
    for _ in range(1000):
        instance = random_instance(generator, generator.integers(2, 60), generator.integers(2, 12))
        least, most = (sum(pick(option.cost for option in options) for options in instance) for pick in (min, max))
        budget = least + (most - least) * generator.uniform(0.02, 0.98)
        options, taken = seconds_of(partial(allocate, instance, budget))
        seconds.append(taken)
        assert options is not None
        assert sum(option.cost for option in options) <= budget
        best = least_loss(instance, budget)
        excesses.append(sum(option.loss for option in options) / best - 1 if best > 0 else 0.0)
    sites = max(int(row["sites"] or 0) for row in read_csv(FOLDER / "zoo.csv"))
    return {
        "instances": len(excesses),
        "largest_excess": max(excesses),
        "mean_excess": statistics.mean(excesses),
        "longest_s": round(max(seconds), 4),
        "most_sites_in_zoo": sites,
        "longest_s_at_that": round(longest_allocation(generator, sites), 3),
    }


def longest_allocation(generator: np.random.Generator, sites: int) -> float:
    seconds = []
    for _ in range(20):
        instance = random_instance(generator, sites, 25)
        budget = generator.uniform(0.3, 0.9) * sum(options[-1].cost for options in instance)
        seconds.append(seconds_of(partial(allocate, instance, budget))[1])
    return max(seconds)


def cost(networks: Networks) -> Row:
    """Sensitivities of torchvision's resnet50 at four ratios on 64 pictures."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50().eval()
    images = networks.pictures()[0][:64]
    ghostify.reestimate_norms(model, images, batch_size=32)
    one, one_s = seconds_of(lambda: ghostify.sensitivity(model, images, workers=1, progress=True))
    print("one worker", one_s, flush=True)
    _, two_s = seconds_of(lambda: ghostify.sensitivity(model, images, workers=2, progress=True))
    return {
        "sites": len(one.sites),
        "ratios": len(one.header.ratios),
        "images": 64,
        "threads": torch.get_num_threads(),
        "seconds": {"one_worker": round(one_s, 1), "two_workers": round(two_s, 1)},
        "two_workers_times_faster": round(one_s / two_s, 2),
    }


def scaling(networks: Networks) -> Row:
    """Sensitivities of resnet18 in one process and in two, each with one thread."""
    model, images = networks.teacher("resnet18"), networks.pictures()[0][:64]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one, two = (seconds_of(partial(ghostify.sensitivity, model, images, workers=count))[1] for count in (1, 2))
    torch.set_num_threads(threads)
    return {
        "network": "resnet18",
        "one_process_s": round(one, 1),
        "two_processes_s": round(two, 1),
        "times": round(one / two, 2),
    }


def sweep(networks: Networks) -> Row:
    """10,000 recorded trials: read, front, plot."""
    mpl.use("Agg")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record_trials(folder, 10000)
        result, read_s = seconds_of(lambda: ghostify.SweepResult.load(folder))
        _, plot_s = seconds_of(lambda: result.plot().figure.savefig(folder / "front.png"))
        _, page_s = seconds_of(lambda: result.to_html(folder / "page.html"))
    return {
        "trials": len(result.results),
        "read_s": round(read_s, 2),
        "read_and_plot_s": round(read_s + plot_s, 2),
        "with_page_s": round(read_s + plot_s + page_s, 2),
    }


def record_trials(folder: Path, count: int) -> None:
    generator = np.random.default_rng(0)
    write_text(folder / "sweep.json", "{}")
    for number in range(count):
        share = float(generator.uniform(0.2, 0.9))
        settings = {"model": "net", "ratio": 1.1 + number / 1000}
        result = TrialResult(settings, 10, 100, share, share, share, share * 0.9, share, 1.0)
        write_text(folder / "trials" / Trial(result.settings).name / "trial.json", result.to_json())


SECTIONS = {"solver": solver, "sweep": sweep, "cost": cost, "scaling": scaling}


def main() -> None:
    parser = argument_parser(__doc__, "data", "models", "imagenet")
    parser.add_argument("--section", choices=SECTIONS)
    add_threads(parser, 2)
    args = parse(parser)
    networks = Networks(args.data, args.models, args.imagenet)
    facts = read_json(RESULTS)
    for name, section in SECTIONS.items():
        if args.section in (None, name):
            facts[name] = section(networks)
            facts["about"] = "torch {torch}, python {python}".format_map(versions())
            write_json(RESULTS, facts)
            print(name, facts[name], flush=True)


def tables() -> dict[str, str]:
    facts = read_json(RESULTS)
    allocation, sites, trials, workers = (facts[name] for name in ("solver", "cost", "sweep", "scaling"))
    seconds = sites["seconds"]
    lines = (
        f"- Allocation beside an integer program, {allocation['instances']:,} random instances: at most "
        f"{allocation['largest_excess']:.4%} above its loss, {allocation['longest_s']:.2f} s at most; for "
        f"{allocation['most_sites_in_zoo']} sites of 25 options, the most of any model, "
        f"{allocation['longest_s_at_that']:.2f} s.",
        f"- Sensitivities of ResNet-50, {sites['sites']} sites at {sites['ratios']} ratios, {sites['images']} images of "
        f"224x224 on two cores: {seconds['one_worker'] / 60:.1f} minutes in one process with two threads, "
        f"{seconds['two_workers'] / 60:.1f} in two with one each ({sites['two_workers_times_faster']:.2f} times faster: "
        f"both use both cores). With one thread each, two processes are {workers['times']:.2f} times faster than one "
        f"({workers['network']}: {workers['one_process_s']:.0f} s and {workers['two_processes_s']:.0f} s).",
        f"- A sweep of {trials['trials']:,} recorded trials is read in {trials['read_s']:.1f} s, read and plotted in "
        f"{trials['read_and_plot_s']:.1f} s.",
    )
    return {"budget_costs": "\n".join(lines)}


if __name__ == "__main__":
    main()
