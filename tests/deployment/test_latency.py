"""latency(): networks side by side; what can't run is listed with its reason."""

import pytest
import torch
import torchvision
from helpers.networks import Residual, randomize
from torch import nn

import ghostify
from ghostify.common.costs import measure
from ghostify.deployment.runtimes import RUNTIMES
from ghostify.deployment.timing import LOADS, in_turns

SIZE = (3, 16, 16)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    dense = randomize(Residual(32)).eval()
    return {"dense": dense, "student": ghostify.convert(dense, 2, cheap="auto")}


CUDA = [name for name in RUNTIMES if RUNTIMES[name].cuda]


@pytest.mark.parametrize("runtimes", [["eager", "channels_last", *CUDA], pytest.param(list(RUNTIMES), marks=pytest.mark.slow)])
def test_every_runtime_gives_a_time_or_a_reason(pair, runtimes):
    options = {} if runtimes == list(RUNTIMES) else {"runtimes": runtimes}  # all of them, where none is named
    found = ghostify.latency(pair, SIZE, batch_sizes=(1, 2), threads=1, repeats=2, **options)
    assert [(t.runtime, t.batch_size, t.model) for t in found.timings] == [
        (runtime, size, name) for runtime in runtimes for size in (1, 2) for name in pair
    ]
    ratio = measure(pair["dense"], (torch.zeros(1, *SIZE),)).flops / measure(pair["student"], (torch.zeros(1, *SIZE),)).flops
    for timing in found.timings:
        assert timing.flops_ratio == (1 if timing.model == "dense" else ratio)
        if RUNTIMES[timing.runtime].missing():
            assert timing.problem
            assert timing.seconds is None
        else:
            assert timing.problem is None
            assert 0 < timing.low <= timing.seconds <= timing.high
            assert timing.latency_ratio == 1 or timing.model == "student"
    text = str(found)
    assert "times fewer FLOPs" in text
    assert "no GPU" in text or torch.cuda.is_available()
    assert len(found.to_frame()) == len(found.timings)


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if not RUNTIMES[name].cuda and name != "compile"])
def test_each_runtime_computes_the_network(pair, runtime):
    check_outputs(pair, runtime)


@pytest.mark.slow
def test_a_compiled_network_computes_the_same(pair):
    check_outputs(pair, "compile")


def check_outputs(pair, runtime):
    if RUNTIMES[runtime].missing():
        pytest.skip(RUNTIMES[runtime].missing())
    x = torch.randn(2, *SIZE)
    student = pair["student"].eval()
    with torch.no_grad():
        given = RUNTIMES[runtime].prepare(ghostify.fold(student), x, 1)()(x)
        torch.testing.assert_close(given[0], student(x), rtol=1e-3, atol=1e-4)


def test_a_network_that_a_runtime_refuses_is_listed(pair):
    class Refused(nn.Module):
        def forward(self, x):
            if len(x) == 2:
                raise ValueError("not today")
            return x

    found = ghostify.latency({**pair, "other": Refused()}, SIZE, runtimes=["eager"], batch_sizes=[2], repeats=1, fold=False)
    assert [t.problem for t in found.timings] == [None, None, "not today"]


def test_one_network_and_a_list(pair):
    lone = ghostify.latency(torchvision.models.squeezenet1_1(), runtimes=["eager"], batch_sizes=[1], repeats=1)
    assert [t.model for t in lone.timings] == ["SqueezeNet"]
    two = ghostify.latency(list(pair.values()), SIZE, runtimes=["eager"], batch_sizes=[1], repeats=1)
    assert [t.model for t in two.timings] == ["0: Residual", "1: Residual"]


def test_networks_and_threads_stay_as_they_are(pair):
    student = pair["student"].train()
    before, threads = {k: v.clone() for k, v in student.state_dict().items()}, torch.get_num_threads()
    for fold in (True, False):
        ghostify.latency({"s": student}, SIZE, runtimes=["eager"], batch_sizes=[1], repeats=1, threads=threads + 1, fold=fold)
    assert torch.get_num_threads() == threads
    assert student.training
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


BAD = {
    "models": (lambda: ghostify.latency("resnet50"), "models must be networks by name"),
    "empty": (lambda: ghostify.latency({}), "models is empty"),
    "a word": (lambda: ghostify.latency({"a": "resnet50"}), r"models\['a'\] must be a torch.nn.Module"),
    "runtime": (lambda: ghostify.latency(Residual(), SIZE, runtimes=["tensorrt"]), "runtime must be one of"),
    "batch": (lambda: ghostify.latency(Residual(), SIZE, batch_sizes=[0]), "batch_sizes must be at least 1"),
    "input": (lambda: ghostify.latency(Residual()), "latency needs an input_size"),
    "size": (lambda: ghostify.latency(Residual(), "3x8x8"), "input_size must be the shape"),
    "threads": (lambda: ghostify.latency(Residual(), SIZE, threads=0), "threads must be at least 1"),
    "repeats": (lambda: ghostify.latency(Residual(), SIZE, repeats=0), "repeats must be at least 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ghostify.GhostifyError, match=message):
        call()


def test_networks_are_loaded_anew_and_take_turns():
    told = []

    def network(name):
        def load():
            told.append(f"load {name}")
            return lambda x: told.append(name)

        return load

    found = in_turns({"a": network("a"), "b": network("b")}, torch.zeros(1), 7, turn=0)
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 7, "b": 7}
    assert told.count("load a") == told.count("load b") == LOADS
    start = told.index("load b") + 1
    assert told[start : start + 10] == ["a", "b"] + 4 * ["a"] + 4 * ["b"]  # once each; then a cold call, one timed, and two
