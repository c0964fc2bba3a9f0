"""Write a network as graphs that run without torch, each checked against torch on the frames it is given.

`examples` runs it and keeps what goes into its parts and comes out of them.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.environment import installed_versions
from twospeed.errors import InputError, OutputError
from twospeed.export.engines import open_graph
from twospeed.export.examples import Clip, PartExamples, examples_of
from twospeed.models.protocol import CLIP_NETWORK, input_scale
from twospeed.weights.entries import ExportedModel, GraphFile, Preprocessing, Task
from twospeed.weights.store import sha256

OPSET = 18
LARGEST_ERROR = 1e-3
"""Of a graph in fp32, relative to the largest value that torch computes; 1e-6 is usual."""

_UNQUANTISED = ("normalise", "read", "recall_recent", "small")  # keys are compared: their smallest rounding counts


def write_graphs(
    network: Any,
    folder: Path,
    *,
    task: Task,
    model: str,
    engine: str,
    precision: str,
    clip: Clip,
    preprocessing: Preprocessing,
    labels: Sequence[str] | None,
    origin: Mapping[str, Any],
) -> ExportedModel:
    """Write a network's graphs and their `model.json` into an empty folder, and return what it holds.

    network: in eval mode, on the CPU. clip: real frames, at least 3, and at least two objects for a tracker. engine:
    "onnx" or "openvino". precision: "fp32", "fp16" (weights stored in 16 bits, computed in 32) or "int8" (convolutions
    and products, calibrated on the clip). labels, preprocessing, origin: travel inside.

    Raises InputError for a network of another task, one that cannot be traced, one whose graphs do not compute what it
    does, or where a package is missing.
    """
    onnx = _needed("onnx")
    graphs = examples_of(network, task, clip, preprocessing)
    files: dict[str, str] = {}
    described: dict[str, GraphFile] = {}
    largest: dict[str, dict[str, float]] = {}
    inside: dict[str, Any] = {
        "model": model,
        "task": task,
        "precision": precision,
        "preprocessing": asdict(preprocessing),
    }
    inside |= {"labels": None if labels is None else list(labels)}
    for name, graph in graphs.items():
        proto = _read_graph(onnx, network.similarity) if name == "read" else _traced(onnx, network, folder, name, graph)
        proto = _quantised(proto, folder, graph) if precision == "int8" and name not in _UNQUANTISED else proto
        if precision == "fp16" and engine == "onnx":
            _store_in_16_bits(onnx, proto)
        onnx.helper.set_model_props(proto, {"twospeed": json.dumps({**inside, "graph": name})})
        written = _written(onnx, proto, folder, name, engine, precision)
        described[name] = GraphFile(file=written[0].name, inputs=graph.inputs, outputs=graph.outputs)
        files |= {path.name: sha256(path) for path in written}
        call = open_graph(engine, written[0], graph.outputs)
        largest[name] = _difference(graph, call)
        if precision == "fp32" and not largest[name]["relative"] <= LARGEST_ERROR:  # also false for NaN
            raise InputError(
                f"{model}: the graph {name!r} differs from torch by {largest[name]['relative']:.2g} of the largest "
                "value; a network whose Python code decides by sizes or values cannot be traced"
            )
    sizes = sorted({tuple(e.inputs[0].shape) for e in next(iter(graphs.values())).examples})
    exported = ExportedModel(
        folder=folder, model=model, task=task, engine=engine, precision=precision, graphs=described, files=files,
        attributes=_attributes(network, task), preprocessing=preprocessing,
        labels=None if labels is None else tuple(labels), opset=OPSET,
        check={"largest_difference": largest, "sizes": [list(size) for size in sizes]},
        origin={**origin, "versions": installed_versions()},
    )  # fmt: skip
    exported.write()
    return exported


def _attributes(network: Any, task: Task) -> dict[str, Any]:
    if task == "track":
        own = {name: getattr(network, name) for name in ("similarity", "keys_per_object", "masks_as_given")}
        return own | {"input_scale": input_scale(network)}
    if task == "segment":
        return {"align_corners": bool(getattr(network, "align_corners", False))}
    average = getattr(network, "average", "probabilities")
    return {name: getattr(network, name) for name in CLIP_NETWORK} | {"average": average}


class _Part(nn.Module):
    """A part of a network as a module, which is what is traced."""

    def __init__(self, network: nn.Module, call: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        # Results that are inputs themselves would lose their name
        return tuple(x + 0 if any(x is given for given in inputs) else x for x in self.call(self.network, *inputs))


def _traced(onnx: ModuleType, network: nn.Module, folder: Path, name: str, graph: PartExamples) -> Any:
    """Return a part as an ONNX model."""
    file = folder / ".traced.onnx"
    example = tuple(x.clone() for x in graph.examples[0].inputs)
    silent = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Part(network, graph.call).eval(),
                example,
                str(file),
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_axes=graph.moving(),
                opset_version=OPSET,
                dynamo=False,  # the tracer: 2 s where torch.export takes 2 minutes
            )
    except OSError as error:
        raise OutputError(f"cannot write {file} ({error.strerror or error}); free space") from error
    except Exception as error:  # as many kinds as operators
        why = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"the part {name!r} of the network cannot be traced ({why})") from error
    model = onnx.load(str(file))
    file.unlink()
    return model


_READ = """
<ir_version: 9, opset_import: ["": {opset}], producer_name: "twospeed">
read (float[P, C] queries, float[N, C] keys, float[K, N, V] values, bool[N] allowed, int64[1] top_k)
=> (float[K, P, V] readout)
<float[1] two = {{2}}, float[1] zero = {{0}}, int64[1] first = {{1}}, int64[1] second = {{2}}> {{
    width = Shape <start = 1, end = 2> (keys)
    channels = Cast <to = 1> (width)
    root = Sqrt (channels)
    scale = Reciprocal (root)
    {similarity}
    offset = Where (allowed, bias, hidden)
    wanted = Mul (queries, factor)
    across = Transpose <perm = [1, 0]> (keys)
    products = MatMul (wanted, across)
    affinity = Add (products, offset)
    best, cells = TopK <axis = -1, sorted = 0> (affinity, top_k)
    weights = Softmax <axis = -1> (best)
    found = Gather <axis = 1> (values, cells)
    rows = Unsqueeze (weights, first)
    mixed = MatMul (rows, found)
    readout = Squeeze (mixed, second)
}}
"""
"""The read with top-k. found: (K, P, k, V). rows: (P, 1, k). mixed: (K, P, 1, V). Its version is what ONNX Runtime of
the year before takes, too."""

_SIMILARITIES = {
    "l2": """
    factor = Mul (scale, two)
    squares = Mul (keys, keys)
    norms = ReduceSum <keepdims = 0> (squares, first)
    scaled = Mul (norms, scale)
    bias = Neg (scaled)
    """,
    "dot": """
    factor = Identity (scale)
    sums = ReduceSum <keepdims = 0> (keys, first)
    bias = Mul (sums, zero)
    """,
}
"""What queries are multiplied by, and what is added for each key; l2 is (2 k.q - k.k) / sqrt(C)."""


def _read_graph(onnx: ModuleType, similarity: str) -> Any:
    """Return the read with top-k: (P, C), (N, C), (K, N, V), allowed (N,), top_k (1,) -> (K, P, V)."""
    from onnx import parser

    model = parser.parse_model(_READ.format(opset=OPSET, similarity=_SIMILARITIES[similarity]))
    hidden = onnx.numpy_helper.from_array(np.array([-np.inf], np.float32), "hidden")
    model.graph.initializer.append(hidden)
    return model


def _store_in_16_bits(onnx: ModuleType, model: Any) -> None:
    """Store weights in 16 bits, and turn them to 32 where they are used: engines do so once, when they load."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < 16:
            continue
        name, half = tensor.name, onnx.numpy_helper.to_array(tensor).astype(np.float16)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(onnx.numpy_helper.from_array(half, f"{name}.half"))
        model.graph.node.insert(
            0, onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT, name=f"{name}.cast")
        )


def _quantised(model: Any, folder: Path, graph: PartExamples) -> Any:
    """Return a graph whose convolutions and products compute in 8 bits, calibrated on the examples."""
    _needed("onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self._left = iter(graph.fed())

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            fed = next(self._left, None)
            return None if fed is None else {name: fed[name] for name in fed if name in taken}

    taken = {one.name for one in model.graph.input}
    target = folder / ".int8.onnx"
    root = logging.getLogger()
    level = root.level
    try:
        root.setLevel(logging.ERROR)
        quantization.quantize_static(
            model,
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,  # processors without VNNI add pairs of products in 16 bits
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        import onnx

        return onnx.load(str(target))
    finally:
        root.setLevel(level)
        target.unlink(missing_ok=True)


def _written(onnx: ModuleType, model: Any, folder: Path, name: str, engine: str, precision: str) -> list[Path]:
    """Write a graph, and return its files, the one to open first."""
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    if engine == "onnx":
        return [path]
    openvino = _needed("openvino")
    converted = openvino.convert_model(str(path))
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, entry.key)
    openvino.save_model(converted, str(folder / f"{name}.xml"), compress_to_fp16=precision == "fp16")
    path.unlink()
    return [folder / f"{name}.xml", folder / f"{name}.bin"]


def _difference(
    graph: PartExamples, call: Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]
) -> dict[str, float]:
    """Return the largest difference between torch and a graph, and the same relative to torch's largest value."""
    absolute = relative = 0.0
    for fed, example in zip(graph.fed(), graph.examples, strict=True):
        for found, expected in zip(call(fed), example.outputs, strict=True):
            if found.shape != tuple(expected.shape):
                return {"absolute": float("nan"), "relative": float("nan")}
            error = float(np.abs(found - expected.numpy()).max())
            absolute = max(absolute, error)
            relative = max(relative, error / max(float(expected.abs().max()), 1e-12))
    return {"absolute": absolute, "relative": relative}


def _needed(package: str) -> ModuleType:
    """Import a package of the extras. Raises InputError where it is missing."""
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        extra = "openvino" if package == "openvino" else "onnx"
        raise InputError(f"exporting needs the package {package}: pip install 'twospeed[{extra}]'") from None


@torch.inference_mode()
def recognised(
    network: nn.Module, exported: ExportedModel, clip: Clip
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return the logits of a network and of its graph on the frames of a clip, from both ends: float32 arrays."""
    found = []
    graph = exported.graphs["logits"]
    call = open_graph(exported.engine, exported.folder / graph.file, graph.outputs)
    for frames in (clip.frames, clip.frames[::-1], clip.frames[::2], clip.frames[: len(clip.frames) // 2]):
        examples = examples_of(network, exported.task, clip._replace(frames=frames), exported.preprocessing)["logits"]
        for fed, example in zip(examples.fed(), examples.examples, strict=True):
            found.append((example.outputs[0].numpy(), call(fed)[0]))
    return found
