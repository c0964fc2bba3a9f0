"""A tracker's state in a file: arrays, and JSON with its network and options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from twospeed.errors import InputError
from twospeed.files import atomic_file

_FORMAT = "twospeed tracker state 1"


def write_state(
    path: Path, arrays: Mapping[str, Any], options: Mapping[str, Any], kept: Mapping[str, Any], kind: Any
) -> None:
    """Write a state, whole or not at all. options: what a tracker must share to continue; kept: plain values.

    kind: the module of the arrays' kind, `ops.on_torch` or `ops.on_numpy`. Raises OutputError.
    """
    metadata = {"format": _FORMAT, "options": json.dumps(options), "kept": json.dumps(kept)}
    with atomic_file(path) as temporary:
        kind.save_arrays(arrays, temporary, metadata)


def read_state(path: Path, options: Mapping[str, Any], device: Any, kind: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and plain values of a state. Raises InputError where it is none, or of other options."""
    if not path.is_file():
        raise InputError(f"no tracker state at {path}; give a file that save_state wrote")
    try:
        with kind.open_arrays(path, device) as (metadata, arrays):
            if metadata.get("format") != _FORMAT:
                raise InputError(f"{path}: holds no tracker state; give a file that save_state wrote")
            then, kept = json.loads(metadata["options"]), json.loads(metadata["kept"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a tracker state ({error}); it may be cut off") from error
    now = json.loads(json.dumps(options))
    for name in now:
        if then.get(name) != now[name]:
            was = "another network" if name == "network" else f"{name}={then.get(name)!r}, not {now[name]!r}"
            raise InputError(f"{path}: was written by a tracker with {was}; use the same, or begin the video anew")
    return arrays, kept


def checksum(network: Any) -> str:
    """SHA-256 of a network's weights, names and kind; that of its files for an exported one."""
    if hasattr(network, "sha256"):
        return str(network.sha256)
    import torch

    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
