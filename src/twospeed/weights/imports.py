"""Read foreign weight files without running anything from them."""

from __future__ import annotations

import argparse
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy._core.multiarray as multiarray  # the names that pickled arrays ask for
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from twospeed.errors import CheckpointError

# What authors wrap their state dicts in: PySlowFast and PyTorchVideo, STCN's resume files, Lightning and GSVNet, Caffe2
_WRAPPERS = ("model_state", "network", "state_dict", "model", "blobs", "model_state_dict")


def check_there(path: Path) -> None:
    """Raise CheckpointError when there is no such file."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give a file, or weights='default'")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a checkpoint's tensors and metadata: safetensors, a torch file, or a Caffe2 pickle.

    What authors wrap around the state dict, and a leading `module.`, is taken off. Raises CheckpointError when the file
    is missing, is none of these, or asks to run code.
    """
    check_there(path)
    with path.open("rb") as file:
        head = file.read(9)
    metadata: dict[str, str] = {}
    content: Any
    if head[8:9] == b"{":
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = dict(file.metadata() or {})
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error
    else:
        content = _read_pickle(path)
    return unwrap(content, str(path)), metadata


def unwrap(content: object, where: str) -> dict[str, Tensor]:
    """Find the state dict inside what was read, as tensors. Raises CheckpointError when there is none."""
    while isinstance(content, Mapping):
        if isinstance(content.get("state_dict_of"), Mapping) and isinstance(content.get("state_dict"), Mapping):
            # GSVNet keeps its flow network beside the rest
            flow = {f"flow_network.{name}": value for name, value in _bare(content["state_dict_of"]).items()}
            content = {**_bare(content["state_dict"]), **flow}
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where} holds a {type(content).__name__}, not a dictionary of weights")
    state: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(name, str) and isinstance(value, Tensor):
            state[name] = value
    if not state:
        raise CheckpointError(f"{where} holds no tensors; is it a checkpoint of a network?")
    return _bare(state)


def _bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take off the `module.` that data-parallel training puts before every name."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _read_pickle(path: Path) -> Any:
    allowed: list[Any] = [
        argparse.Namespace,  # GSVNet keeps its command line's arguments in the file: plain attributes, no code
        np.dtype,
        multiarray.scalar,
        *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        UnicodeDecodeError,
        ValueError,
        KeyError,
    ) as torch_error:
        try:
            return _RestrictedUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        except CheckpointError as refused:
            raise CheckpointError(f"{path}: {refused}") from torch_error
        except Exception as error:  # a damaged pickle can raise anything; nothing of it has run
            raise CheckpointError(
                f"{path} is neither safetensors, nor a torch file, nor a Caffe2 pickle; is it whole?"
            ) from error


class _RestrictedUnpickler(pickle.Unpickler):
    """Arrays, numbers, strings and plain containers, nothing else: Caffe2's published `.pkl` files need no more."""

    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
        ("numpy.core.multiarray", "scalar"): multiarray.scalar,
        ("numpy._core.multiarray", "scalar"): multiarray.scalar,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed constructor; refuse all others by name."""
        if (module, name) in self._ALLOWED:
            return self._ALLOWED[module, name]
        raise CheckpointError(
            f"the pickle asks for {module}.{name}, which could run code; refused. "
            "Load it where you trust it and save the plain state dict"
        )
