"""What a network can run on: PyTorch in several ways, ONNX Runtime, OpenVINO; and how long it takes there."""

import copy
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ArgumentError
from .formats import FORMATS, Run, absent_packages, onnx_session, openvino_request, tensors_of, to_openvino, write_onnx
from .timing import Load


@dataclass(frozen=True)
class Runtime:
    """One way to run a network.

    Attributes:
        name: name of the runtime, as :func:`ghostify.latency` takes it.
        needs: packages to be installed.
        prepare: ``prepare(model, example, threads)`` gives a function that loads the network, at each call anew, and returns a
            function from an input of the example's shape to the outputs. The compiled one is compiled, and loaded, once.
        cuda: whether it runs on a GPU, and takes its inputs there (:meth:`placed`).
    """

    name: str
    needs: tuple[str, ...]
    prepare: Callable[[nn.Module, Tensor, int], Load]
    cuda: bool = False

    def missing(self) -> str | None:
        """Why the runtime can't be used here; None if it can."""
        absent = absent_packages(self.needs)
        if absent:
            return f"not installed: pip install {' '.join(absent)}"
        return "no GPU" if self.cuda and not torch.cuda.is_available() else None

    def placed(self, x: Tensor) -> Tensor:
        """An input, copied to where the runtime takes it from: the way to a GPU is not the network's time."""
        return x.to("cuda", memory_format=_layout(x)) if self.cuda else x


def runtime_named(name: str) -> Runtime:
    """The runtime of this name.

    Raises:
        ArgumentError: there is no such runtime.
    """
    if name not in RUNTIMES:
        raise ArgumentError(f"runtime must be one of {', '.join(map(repr, RUNTIMES))}, not {name!r}")
    return RUNTIMES[name]


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
    compiled = torch.compile(copy.deepcopy(model), options={"freezing": True})
    return lambda: _torch(compiled)


def _cuda(model: nn.Module, example: Tensor, threads: int) -> Load:
    return lambda: _torch(_on_gpu(model, example))


def _cuda_compile(model: nn.Module, example: Tensor, threads: int) -> Load:
    run = _torch(torch.compile(_on_gpu(model, example), mode="reduce-overhead"))  # CUDA graphs
    return lambda: run


def _on_gpu(model: nn.Module, example: Tensor) -> nn.Module:
    copied = copy.deepcopy(model).cuda()
    return copied.to(memory_format=_layout(example))


def _torch(model: Callable[[Tensor], object]) -> Run:
    def run(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return tensors_of(model(x))

    return run


def _onnxruntime(model: nn.Module, example: Tensor, threads: int) -> Load:
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "model.onnx"
    write_onnx(model, path, example, dynamic=False)

    def load() -> Run:
        return onnx_session(path, threads)

    weakref.finalize(load, folder.cleanup)
    return load


def _openvino(model: nn.Module, example: Tensor, threads: int) -> Load:
    converted = to_openvino(model, example, dynamic=False)
    return lambda: openvino_request(converted, threads)


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("eager", (), _eager),
        Runtime("channels_last", (), _channels_last),
        Runtime("compile", (), _compile),
        Runtime("onnxruntime", FORMATS["onnx"].needs, _onnxruntime),
        Runtime("openvino", FORMATS["openvino"].needs, _openvino),
        Runtime("cuda", (), _cuda, cuda=True),
        Runtime("cuda_compile", (), _cuda_compile, cuda=True),
    )
}
