"""What a network can run on: PyTorch in several ways, ONNX Runtime, OpenVINO; and how long it takes there."""

import copy
import importlib.util
import platform
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .errors import ArgumentError

Run = Callable[[Tensor], list[Tensor]]
Load = Callable[[], Run]
TURN = 0.1  # seconds at least that a network runs before the next has its turn; the first call of a turn is not counted
LOADS = 5  # of each network: where in memory its weights and maps come to lie is worth up to a twentieth of its time


@dataclass(frozen=True)
class Runtime:
    """One way to run a network.

    Attributes:
        name: as :func:`ghostify.latency` takes it.
        needs: packages to be installed.
        prepare: ``prepare(model, example, threads)`` gives a function that loads the network, at each call anew, and returns a
            function from an input of the example's shape to the outputs. The compiled one is compiled, and loaded, once.
        cuda: runs on a GPU, and takes its inputs there (:meth:`placed`).
    """

    name: str
    needs: tuple[str, ...]
    prepare: Callable[[nn.Module, Tensor, int], Load]
    cuda: bool = False

    def missing(self) -> str | None:
        """Why it can't be used here; None if it can."""
        absent = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if absent:
            return f"not installed: pip install {' '.join(absent)}"
        return "no GPU" if self.cuda and not torch.cuda.is_available() else None

    def placed(self, x: Tensor) -> Tensor:
        """An input where the runtime takes it from: the way to a GPU is not the network's time."""
        return x.to("cuda", memory_format=_layout(x)) if self.cuda else x


def _eager(model: nn.Module, example: Tensor, threads: int) -> Load:
    return lambda: _torch(model)


def _layout(x: Tensor) -> torch.memory_format:
    return {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)


def _channels_last(model: nn.Module, example: Tensor, threads: int) -> Load:
    layout = _layout(example)

    def load() -> Run:
        run = _torch(copy.deepcopy(model).to(memory_format=layout))
        return lambda x: run(x.contiguous(memory_format=layout))

    return load


def _compile(model: nn.Module, example: Tensor, threads: int) -> Load:
    compiled: Any = torch.compile(copy.deepcopy(model), options={"freezing": True})
    return lambda: _torch(compiled)


def _cuda(model: nn.Module, example: Tensor, threads: int) -> Load:
    return lambda: _torch(_on_gpu(model, example))


def _cuda_compile(model: nn.Module, example: Tensor, threads: int) -> Load:
    run = _torch(torch.compile(_on_gpu(model, example), mode="reduce-overhead"))  # CUDA graphs
    return lambda: run


def _on_gpu(model: nn.Module, example: Tensor) -> nn.Module:
    copied: Any = copy.deepcopy(model)
    moved: nn.Module = copied.to("cuda", memory_format=_layout(example))
    return moved


def _torch(model: Any) -> Run:
    def run(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return tensors_of(model(x))

    return run


def _onnxruntime(model: nn.Module, example: Tensor, threads: int) -> Load:
    from .export import write_onnx

    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "model.onnx"
    write_onnx(model, path, example, dynamic=False)

    def load() -> Run:
        return onnx_session(path, threads)

    weakref.finalize(load, folder.cleanup)
    return load


def onnx_session(path: Path, threads: int) -> Run:
    """An ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(value) for value in session.run(None, {name: x.numpy()})]


def _openvino(model: nn.Module, example: Tensor, threads: int) -> Load:
    from .export import to_openvino

    converted = to_openvino(model, example, dynamic=False)
    return lambda: openvino_request(converted, threads)


def openvino_request(model: Any, threads: int) -> Run:
    """A model of OpenVINO, or the path of one, on the CPU in float32."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: [torch.from_numpy(value) for value in request.infer({0: x.numpy()}, share_inputs=True).values()]


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("eager", (), _eager),
        Runtime("channels_last", (), _channels_last),
        Runtime("compile", (), _compile),
        Runtime("onnxruntime", ("onnx", "onnxscript", "onnxruntime"), _onnxruntime),
        Runtime("openvino", ("openvino",), _openvino),
        Runtime("cuda", (), _cuda, cuda=True),
        Runtime("cuda_compile", (), _cuda_compile, cuda=True),
    )
}


def runtime_named(name: Any) -> Runtime:
    """
    Raises:
        ArgumentError: there is none of this name.
    """
    if name not in RUNTIMES:
        raise ArgumentError(f"runtime must be one of {', '.join(map(repr, RUNTIMES))}, not {name!r}")
    return RUNTIMES[name]


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a model returned, in order."""
    return [leaf.detach() for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


def in_turns(loads: Mapping[str, Load], x: Tensor, repeats: int, turn: float = TURN) -> dict[str, list[float]]:
    """Seconds of one call, for each repeat, of networks that take turns and are loaded anew now and then."""
    found: dict[str, list[float]] = {name: [] for name in loads}
    runs: dict[str, Run] = {}
    for i in range(repeats):
        if i * LOADS // repeats != (i - 1) * LOADS // repeats:
            runs.clear()  # before the next are loaded: there may be room for one of each
            runs.update({name: load() for name, load in loads.items()})
            for run in runs.values():
                run(x)
        for name, run in runs.items():
            run(x)
            calls = max(2, round(turn / max(_seconds(run, x, 1), 1e-7)))
            found[name].append(_seconds(run, x, calls))
    return found


def _seconds(run: Run, x: Tensor, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run(x)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


@contextmanager
def thread_count(count: int) -> Iterator[None]:
    """That torch uses meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> str:
    """Processor with the widest vector instructions that torch uses on it, GPU and version of torch."""
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}){gpu}, torch {torch.__version__}"


def _processor() -> str:
    told = Path("/proc/cpuinfo")  # on Linux; what Python tells there is no more than the architecture
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
