"""Write a network as graphs that run without torch, each checked against torch on the frames it is given.

A network is run on frames as its pipeline runs it, and everything that goes into its parts and comes out of them is
kept: these examples say which axes may change, what a graph is traced with, what it must compute, and what int8 is
calibrated on. Networks are written by what they offer (`models.protocol`), not by their name.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.environment import installed_versions
from twospeed.errors import InputError
from twospeed.export.engines import open_graph
from twospeed.models.memory import read_memory
from twospeed.models.protocol import CLIP_NETWORK, MASK_MEMORY, VIDEO_SEGMENTATION, lacks, sees_last_frame
from twospeed.ops.masks import one_hot, soft_aggregate
from twospeed.weights.catalog import Preprocessing, Task
from twospeed.weights.exported import ExportedModel, GraphFile
from twospeed.weights.store import sha256

OPSET = 18
LARGEST_ERROR = 1e-3
"""Of a graph in fp32, relative to the largest value that torch computes; 1e-6 is usual."""

STRIDE = 16
_TOP_K = 20  # of the reads that are checked
_UNQUANTISED = ("normalise", "read", "recall_recent", "small")  # keys are compared: their smallest rounding counts

Image = NDArray[np.uint8]


class Clip(NamedTuple):
    """Consecutive frames, uint8 (H, W, 3) RGB, and the labels (H, W) of the first one, 0 for the background."""

    frames: Sequence[Image]
    labels: Image


class _Example(NamedTuple):
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass
class _Graph:
    """A part of a network, and what it was given and gave."""

    call: Callable[..., tuple[Tensor, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: list[_Example] = field(default_factory=list)

    def moving(self) -> dict[str, dict[int, str]]:
        """Name the axes that differ between examples, by input and output."""
        axes: dict[str, dict[int, str]] = {}
        for names, part in ((self.inputs, "inputs"), (self.outputs, "outputs")):
            for position, name in enumerate(names):
                shapes = [getattr(example, part)[position].shape for example in self.examples]
                differ = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
                axes[name] = {axis: f"{name}_{axis}" for axis in differ}
        return axes


class _Recorder:
    """Runs parts of a network, and keeps what goes in and comes out."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.graphs: dict[str, _Graph] = {}

    def run(
        self, name: str, call: Callable[..., tuple[Tensor, ...]], outputs: Sequence[str], **inputs: Tensor
    ) -> tuple[Tensor, ...]:
        found = call(self.network, *inputs.values())
        graph = self.graphs.setdefault(name, _Graph(call, tuple(inputs), tuple(outputs)))
        graph.examples.append(_Example(tuple(x.contiguous() for x in inputs.values()), found))
        return found


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
    graphs = _examples(network, task, clip, preprocessing)
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
        folder=folder,
        model=model,
        task=task,
        engine=engine,
        precision=precision,
        graphs=described,
        files=files,
        attributes=_attributes(network, task),
        preprocessing=preprocessing,
        labels=None if labels is None else tuple(labels),
        opset=OPSET,
        check={"largest_difference": largest, "sizes": [list(size) for size in sizes]},
        origin={**origin, "versions": installed_versions()},
    )
    exported.write()
    return exported


@torch.inference_mode()
def _examples(network: nn.Module, task: Task, clip: Clip, preprocessing: Preprocessing) -> dict[str, _Graph]:
    recorder = _Recorder(network)
    if task == "track":
        if missing := lacks(network, MASK_MEMORY):
            raise InputError(
                f"{type(network).__name__} cannot be exported to track: it has no `{'`, `'.join(missing)}`; networks "
                "that follow given masks can"
            )
        for sizes in ((2, 240), (3, 176), (1, 112)):
            _track(recorder, clip, *sizes)
    elif task == "segment":
        for short_side in (240, 180, 128):
            _segment(recorder, clip, short_side)
    else:
        if missing := lacks(network, CLIP_NETWORK):
            raise InputError(f"{type(network).__name__} cannot be exported: it has no `{'`, `'.join(missing)}`")
        for turn in range(2):
            _recognise(recorder, task, clip, preprocessing, turn)
    return recorder.graphs


def _track(recorder: _Recorder, clip: Clip, objects: int, short_side: int) -> None:
    """Track through the clip as `Tracker` does, remembering every second frame."""
    network = recorder.network
    frames = [_scaled(image, short_side, STRIDE) / 255 for image in clip.frames]
    labels = _scaled(clip.labels, short_side, STRIDE, nearest=True)[0, 0]
    ids = [int(i) for i in labels.unique() if i]
    if len(ids) < 2:
        raise InputError("the first frame's mask holds fewer than two objects; mark two or more")
    masks = one_hot(labels, [*ids[:objects], *[ids[0]] * (objects - len(ids))])[None]  # (1, K, H, W)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    last: tuple[Tensor, Tensor] | None = None
    kind: Any = type(network.encode_key(network.normalise(frames[0])))  # what holds the features
    for number, image in enumerate(frames):
        (x,) = recorder.run("normalise", lambda n, i: (n.normalise(i),), ["normalised"], images=image)
        found = recorder.run("encode_key", lambda n, f: tuple(n.encode_key(f)), kind._fields, frames=x)
        features = dict(zip(kind._fields, found, strict=True))
        if number:
            bank = torch.cat(keys, -1)[0].mT.contiguous(), torch.cat(values, -1)[0].mT.contiguous()
            h, w = features["key"].shape[-2:]
            (readout,) = recorder.run(
                "read",
                lambda n, *a: (_read(n.similarity, *a),),
                ["readout"],
                queries=features["key"][0].flatten(1).T,
                keys=bank[0],
                values=bank[1],
                allowed=torch.ones(len(bank[0]), dtype=torch.bool),
                top_k=torch.tensor([_TOP_K + number]),
            )
            recalled = readout.mT.unflatten(-1, (h, w))[None]  # (1, K, V, h, w)
            if sees_last_frame(network) and last is not None:
                (recalled,) = recorder.run(
                    "recall_recent", lambda n, *a: (n.recall_recent(*a),), ["joined"],
                    readout=recalled, key=features["key"], last_key=last[0], last_masks=last[1],
                )  # fmt: skip
            (logits,) = recorder.run(
                "decode", lambda n, r, *f: (n.decode(r, kind(*f)),), ["logits"], readout=recalled, **features
            )
            masks = soft_aggregate(logits.sigmoid()).softmax(1)[:, 1:]
        last = (features["key"], masks)
        if number % 2 == 0:
            key, value = recorder.run(
                "encode_memory",
                lambda n, f, m, *rest: n.encode_memory(f, kind(*rest), m),
                ["keys", "values"],
                frames=x,
                masks=masks,
                **features,
            )
            # Of networks with keys of each object, the first's stand for all
            keys.append((key[:, 0] if network.keys_per_object else key).flatten(2))
            values.append((value[:, :1] if network.keys_per_object else value).flatten(3))


def _read(similarity: Any, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor, top_k: Tensor) -> Tensor:
    """Read as the graph does. Shapes: (P, C), (N, C), (K, N, V), (N,), (1,) -> (K, P, V)."""
    found = read_memory(
        queries.T[None, :, None],
        keys.T[None],
        values.mT[None],
        top_k=int(top_k),
        similarity=similarity,
        allowed=allowed,
    )
    return found[0, :, :, 0].mT


def _segment(recorder: _Recorder, clip: Clip, short_side: int) -> None:
    images = [_scaled(image, short_side, 1) for image in clip.frames]
    if lacks(recorder.network, VIDEO_SEGMENTATION):
        for image in images[:: max(1, len(images) // 4)]:
            recorder.run("scores", _scores, ["scores"], image=image)
        return
    scores = previous = None
    for number, image in enumerate(images):
        (small,) = recorder.run("small", lambda n, i: (n.small(i),), ["reduced"], image=image)
        if scores is None or previous is None or number % 4 == 0:
            (scores,) = recorder.run("keyframe", lambda n, i: (n.keyframe(i),), ["scores"], image=image)
        else:
            step = recorder.network.step(scores, previous, small)
            names = [name for name in ("scores", "flow", "carried") if hasattr(step, name)]
            found = recorder.run(
                "step",
                lambda n, *a, names=names: _parts(n.step(*a), names),
                names,
                previous_scores=scores,
                previous=previous,
                current=small,
            )
            scores = dict(zip(names, found, strict=True)).get("carried", found[0])
        previous = small


def _scores(network: Any, image: Tensor) -> tuple[Tensor, ...]:
    call: Any = getattr(network, "scores", network)
    return (call(image),)


def _parts(step: Any, names: Sequence[str]) -> tuple[Tensor, ...]:
    return tuple(getattr(step, name) for name in names)


def _recognise(recorder: _Recorder, task: Task, clip: Clip, preprocessing: Preprocessing, turn: int) -> None:
    """Run on clips of the frames: of the size of the crop for whole clips, of several sizes for people in boxes."""
    side = preprocessing.crop or preprocessing.short_side or 256
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    chosen = [clip.frames[i] for i in np.linspace(0, len(clip.frames) - 1, recorder.network.frames).round().astype(int)]
    if task == "detect":
        side = [side // 2, side * 3 // 4][turn]
    frames = torch.cat([_scaled(image, side, STRIDE) for image in chosen]).transpose(0, 1)[None]  # (1, 3, T, H, W)
    x = (frames / 255 - mean) / std
    x = x.flip(1) if preprocessing.input_order == "bgr" else x
    if task == "classify":
        left = [0, (x.shape[-1] - side) // 2, x.shape[-1] - side]
        crops = torch.cat([x[..., at : at + side] for at in left[: 2 - turn]])
        recorder.run("logits", lambda n, c: (n(c),), ["logits"], clip=crops)
        return
    height, width = x.shape[-2:]
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.9], [0.4, 0.2, 0.8, 0.8], [0.0, 0.0, 1.0, 1.0], [0.6, 0.5, 0.9, 0.7]])
    placed = boxes[: turn + 2] * torch.tensor([width, height, width, height])
    recorder.run("logits", lambda n, c, b: (n(c, [b]),), ["logits"], clip=x, boxes=placed)


def _scaled(image: Image, short_side: int, multiple: int, *, nearest: bool = False) -> Tensor:
    """Bring an image to a shorter side, sides rounded down to a multiple. -> float (1, C, H, W), same units."""
    x = torch.from_numpy(np.ascontiguousarray(image)).float()
    x = x[None, None] if image.ndim == 2 else x.permute(2, 0, 1)[None]
    scale = short_side / min(x.shape[-2:])
    size = [max(multiple, int(side * scale + 1e-6) // multiple * multiple) for side in x.shape[-2:]]
    return nn.functional.interpolate(x, size, mode="nearest" if nearest else "bilinear").contiguous()


def _attributes(network: Any, task: Task) -> dict[str, Any]:
    if task == "track":
        return {name: getattr(network, name) for name in ("similarity", "keys_per_object", "masks_as_given")}
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


def _traced(onnx: ModuleType, network: nn.Module, folder: Path, name: str, graph: _Graph) -> Any:
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
    except Exception as error:  # as many kinds as operators
        why = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"the part {name!r} of the network cannot be traced ({why})") from error
    model = onnx.load(str(file))
    file.unlink()
    return model


def _read_graph(onnx: ModuleType, similarity: str) -> Any:
    """Return the read with top-k: (P, C), (N, C), (K, N, V), allowed (N,), top_k (1,) -> (K, P, V)."""
    make, kinds = onnx.helper.make_node, onnx.TensorProto
    nodes = [
        make("Shape", ["keys"], ["width"], start=1, end=2),
        make("Cast", ["width"], ["channels"], to=kinds.FLOAT),
        make("Sqrt", ["channels"], ["root"]),
        make("Reciprocal", ["root"], ["scale"]),
    ]
    if similarity == "l2":  # (2 k.q - k.k) / sqrt(C)
        nodes += [
            make("Mul", ["scale", "two"], ["factor"]),
            make("Mul", ["keys", "keys"], ["squares"]),
            make("ReduceSum", ["squares", "last"], ["norms"], keepdims=0),
            make("Mul", ["norms", "scale"], ["scaled"]),
            make("Neg", ["scaled"], ["bias"]),
        ]
    else:
        nodes += [
            make("Identity", ["scale"], ["factor"]),
            make("ReduceSum", ["keys", "last"], ["sums"], keepdims=0),
            make("Mul", ["sums", "zero"], ["bias"]),
        ]
    nodes += [
        make("Where", ["allowed", "bias", "hidden"], ["offset"]),
        make("Mul", ["queries", "factor"], ["wanted"]),
        make("Transpose", ["keys"], ["across"], perm=[1, 0]),
        make("MatMul", ["wanted", "across"], ["products"]),
        make("Add", ["products", "offset"], ["affinity"]),
        make("TopK", ["affinity", "top_k"], ["best", "cells"], axis=-1, sorted=0),
        make("Softmax", ["best"], ["weights"], axis=-1),
        make("Gather", ["values", "cells"], ["found"], axis=1),  # (K, P, k, V)
        make("Unsqueeze", ["weights", "middle"], ["rows"]),  # (P, 1, k)
        make("MatMul", ["rows", "found"], ["mixed"]),  # (K, P, 1, V)
        make("Squeeze", ["mixed", "third"], ["readout"]),
    ]
    info = onnx.helper.make_tensor_value_info
    inputs = [
        info("queries", kinds.FLOAT, ["P", "C"]),
        info("keys", kinds.FLOAT, ["N", "C"]),
        info("values", kinds.FLOAT, ["K", "N", "V"]),
        info("allowed", kinds.BOOL, ["N"]),
        info("top_k", kinds.INT64, [1]),
    ]
    constants = {
        "two": np.array([2], np.float32),
        "zero": np.array([0], np.float32),
        "hidden": np.array([-np.inf], np.float32),
        "last": np.array([1], np.int64),
        "middle": np.array([1], np.int64),
        "third": np.array([2], np.int64),
    }
    used = {name for node in nodes for name in node.input}
    graph = onnx.helper.make_graph(
        nodes,
        "read",
        inputs,
        [info("readout", kinds.FLOAT, ["K", "P", "V"])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="twospeed")
    model.ir_version = 9  # what ONNX Runtime of the year before takes, too
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


def _quantised(model: Any, folder: Path, graph: _Graph) -> Any:
    """Return a graph whose convolutions and products compute in 8 bits, calibrated on the examples."""
    _needed("onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self._left = iter(_named(graph))

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


def _named(graph: _Graph) -> Iterator[dict[str, NDArray[Any]]]:
    for example in graph.examples:
        yield {name: value.numpy() for name, value in zip(graph.inputs, example.inputs, strict=True)}


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


def _difference(graph: _Graph, call: Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]) -> dict[str, float]:
    """Return the largest difference between torch and a graph, and the same relative to torch's largest value."""
    absolute = relative = 0.0
    for fed, example in zip(_named(graph), graph.examples, strict=True):
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
        examples = _examples(network, exported.task, clip._replace(frames=frames), exported.preprocessing)["logits"]
        for fed, example in zip(_named(examples), examples.examples, strict=True):
            found.append((example.outputs[0].numpy(), call(fed)[0]))
    return found
