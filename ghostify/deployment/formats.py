"""Files of networks for other runtimes: how each format is written, read back and quantized to int8."""

import importlib.util
import inspect
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

if TYPE_CHECKING:
    import numpy as np
    import openvino

Run = Callable[[Tensor], list[Tensor]]
"""A network that is loaded into its runtime: from an input to the outputs."""


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        name: name of the format, as :func:`ghostify.export` takes it.
        suffix: suffix of its files, with the dot.
        needs: packages that write and read it.
        write: ``write(model, path, example, dynamic)`` writes a network in evaluation mode. ``example`` is an input
            (N, C, H, W); ``dynamic`` lets the batch size be whatever it is at run time.
        read: ``read(path, threads)`` loads a file into its runtime.
        write_int8: ``write_int8(model, path, example, dynamic, images)`` writes it with weights and maps of 8 bits, whose
            ranges come from batches of images; None where the format has no tool for that.
        int8_needs: packages that this needs, too.
    """

    name: str
    suffix: str
    needs: tuple[str, ...]
    write: Callable[[nn.Module, Path, Tensor, bool], None]
    read: Callable[[Path, int], Run]
    write_int8: Callable[[nn.Module, Path, Tensor, bool, list[Tensor]], None] | None = None
    int8_needs: tuple[str, ...] = ()


def absent_packages(packages: Iterable[str]) -> list[str]:
    """Packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def tensors_of(output: object) -> list[Tensor]:
    """The tensors in what a model returned, in order."""
    return [leaf.detach() for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


def write_onnx(model: nn.Module, path: Path, example: Tensor, dynamic: bool) -> None:
    """Write an ONNX file by way of ``torch.export``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(model, dynamic),
            external_data=False,
            verbose=False,
        )


def _write_onnx_int8(model: nn.Module, path: Path, example: Tensor, dynamic: bool, images: list[Tensor]) -> None:
    """Write an ONNX file that ONNX Runtime's own tool quantized, with a scale for each channel of the weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self.batches = iter([{name: batch.cpu().numpy()} for batch in images])

        def get_next(self) -> "dict[str, np.ndarray] | None":
            return next(self.batches, None)

    whole, prepared = path.with_suffix(".whole"), path.with_suffix(".prepared")
    write_onnx(model, whole, example, dynamic)
    quant_pre_process(str(whole), str(prepared))
    import onnxruntime

    name = onnxruntime.InferenceSession(str(prepared), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantize_static(str(prepared), str(path), Reader(name), quant_format=QuantFormat.QDQ, per_channel=True)
    whole.unlink()
    prepared.unlink()


def onnx_session(path: Path, threads: int) -> Run:
    """An ONNX file in ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(value) for value in session.run(None, {name: x.numpy()})]


def _write_torch(model: nn.Module, path: Path, example: Tensor, dynamic: bool) -> None:
    """Write the program of ``torch.export``."""
    program = torch.export.export(model, (example,), dynamic_shapes=_dynamic_shapes(model, dynamic))
    buffer = io.BytesIO()  # torch's own writer ends the process where the disk is full
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getbuffer())


def _read_torch(path: Path, threads: int) -> Run:
    """A program of ``torch.export`` in PyTorch, which has the threads of the process."""
    module = torch.export.load(path).module()
    return lambda x: tensors_of(module(x))


def to_openvino(model: nn.Module, example: Tensor, dynamic: bool) -> "openvino.Model":
    """A network as a model of OpenVINO, in memory."""
    import openvino

    shape = [-1 if dynamic else len(example), *example.shape[1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, by which OpenVINO reads a network
        return openvino.convert_model(model, example_input=example, input=[shape])


def _write_openvino(model: nn.Module, path: Path, example: Tensor, dynamic: bool) -> None:
    """Write OpenVINO's ``.xml`` and the ``.bin`` beside it, in float32."""
    import openvino

    openvino.save_model(to_openvino(model, example, dynamic), path, compress_to_fp16=False)


def _write_openvino_int8(model: nn.Module, path: Path, example: Tensor, dynamic: bool, images: list[Tensor]) -> None:
    """Write what NNCF quantized."""
    import nncf
    import openvino

    converted = to_openvino(model, example, dynamic)
    quantized = nncf.quantize(converted, nncf.Dataset([batch.cpu().numpy() for batch in images]))
    openvino.save_model(quantized, path, compress_to_fp16=False)


def openvino_request(model: "openvino.Model | str", threads: int) -> Run:
    """A model of OpenVINO, or the path of one, on the CPU in float32."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: [torch.from_numpy(value) for value in request.infer({0: x.numpy()}, share_inputs=True).values()]


def _read_openvino(path: Path, threads: int) -> Run:
    return openvino_request(str(path), threads)


def _dynamic_shapes(model: nn.Module, dynamic: bool) -> tuple[object, ...] | None:
    """Let ``torch.export`` find out which sizes of the one input may vary along the batch."""
    if not dynamic:
        return None
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    batch = {0: torch.export.Dim.AUTO}
    return ((batch,),) if first is not None and first.kind is first.VAR_POSITIONAL else (batch,)


FORMATS = {
    format.name: format
    for format in (
        Format("onnx", ".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, onnx_session, _write_onnx_int8),
        Format("torch", ".pt2", (), _write_torch, _read_torch),
        Format("openvino", ".xml", ("openvino",), _write_openvino, _read_openvino, _write_openvino_int8, ("nncf",)),
    )
}
