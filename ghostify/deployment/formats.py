"""ONNX, OpenVINO and torch.export: write a file, read it back, quantize it to int8."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten


def exported_program(model: nn.Module, example: Tensor, dynamic: bool) -> Any:
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    return torch.export.export(model, (example,), dynamic_shapes=shapes)


def write_onnx(model: nn.Module, path: Path, example: Tensor, dynamic: bool) -> None:
    """Write an ONNX file by way of ``torch.export``."""
    shapes = ({0: torch.export.Dim.AUTO},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)


def to_openvino(model: nn.Module, example: Tensor, dynamic: bool) -> Any:
    """A model of OpenVINO."""
    import openvino

    shape = [-1 if dynamic else len(example), *example.shape[1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, by which OpenVINO reads a network
        return openvino.convert_model(model, example_input=example, input=[shape])


def write_onnx_int8(model: nn.Module, path: Path, example: Tensor, dynamic: bool, images: list[Tensor]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self.batches = iter([{name: batch.cpu().numpy()} for batch in images])

        def get_next(self) -> Any:
            return next(self.batches, None)

    whole, prepared = path.with_suffix(".whole"), path.with_suffix(".prepared")
    write_onnx(model, whole, example, dynamic)
    quant_pre_process(str(whole), str(prepared))
    import onnxruntime

    name = onnxruntime.InferenceSession(str(prepared), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantize_static(str(prepared), str(path), Reader(name), quant_format=QuantFormat.QDQ, per_channel=True)
    whole.unlink()
    prepared.unlink()


def openvino_int8(model: Any, images: list[Tensor]) -> Any:
    import nncf

    return nncf.quantize(model, nncf.Dataset([batch.cpu().numpy() for batch in images]))


Run = Callable[[Tensor], list[Tensor]]


def onnx_session(path: Path, threads: int) -> Run:
    """An ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(value) for value in session.run(None, {name: x.numpy()})]


def openvino_request(model: Any, threads: int) -> Run:
    """A model of OpenVINO, or the path of one, on the CPU in float32."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x: [torch.from_numpy(value) for value in request.infer({0: x.numpy()}, share_inputs=True).values()]


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors in what a model returned, in order."""
    return [leaf.detach() for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
