"""ONNX Runtime and OpenVINO behind one call: a file in, a function from named arrays to arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import CheckpointError, InputError

Array = NDArray[Any]
Call = Callable[[Mapping[str, Array]], list[Array]]

PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


def open_graph(engine: str, path: Path, outputs: Sequence[str]) -> Call:
    """Return the function that a graph's file holds; it takes more arrays than it needs, and returns `outputs`.

    As many threads as OMP_NUM_THREADS says, else as the machine has cores. Raises InputError where the engine is not
    installed, CheckpointError for a file that it does not take.
    """
    try:
        return _onnx(path, outputs) if engine == "onnx" else _openvino(path, outputs)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != PACKAGES[engine]:
            raise
        raise InputError(
            f"an exported model of the format {engine} needs another package: pip install 'twospeed[{engine}]'"
        ) from None


def _onnx(path: Path, outputs: Sequence[str]) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3  # errors, which are raised, too
    # A model is several graphs, each with its threads: those that wait must leave the cores to the others
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, one for each status
        raise CheckpointError(f"{path}: ONNX Runtime does not take it ({_first_line(error)})") from error
    inputs = {one.name for one in session.get_inputs()}

    def call(arrays: Mapping[str, Array]) -> list[Array]:
        fed = {name: np.ascontiguousarray(value) for name, value in arrays.items() if name in inputs}
        return [np.asarray(value) for value in session.run(list(outputs), fed)]

    return call


def _openvino(path: Path, outputs: Sequence[str]) -> Call:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads := _threads():
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: OpenVINO does not take it ({_first_line(error)})") from error
    inputs = {name for port in compiled.inputs for name in port.names}

    def call(arrays: Mapping[str, Array]) -> list[Array]:
        fed = {name: np.ascontiguousarray(value) for name, value in arrays.items() if name in inputs}
        found = compiled(fed)
        return [np.array(found[name]) for name in outputs]

    return call


def _threads() -> int:
    """How many threads a graph computes with; 0 leaves it to the engine: one for each core."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() else 0


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
