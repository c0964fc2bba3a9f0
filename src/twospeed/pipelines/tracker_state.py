"""What a tracker knows of a video, in a file: tensors, and JSON that says by which network and options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from twospeed.errors import InputError
from twospeed.files import atomic_file

_FORMAT = "twospeed tracker state 1"


def write_state(path: Path, tensors: Mapping[str, Tensor], options: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all. options: what a tracker must share to continue; kept: plain values.

    Raises OutputError.
    """
    metadata = {"format": _FORMAT, "options": json.dumps(_plain(options)), "kept": json.dumps(kept)}
    # Inference tensors and parameters alike: plain copies on the host
    copies = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(copies, temporary, metadata)


def read_state(
    path: Path, options: Mapping[str, Any], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and plain values of a state. Raises InputError where it is none, or of other options."""
    if not path.is_file():
        raise InputError(f"no tracker state at {path}; give a file that save_state wrote")
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"{path}: holds no tracker state; give a file that save_state wrote")
            then, kept = json.loads(metadata["options"]), json.loads(metadata["kept"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a tracker state ({error}); it may be cut off") from error
    now = json.loads(json.dumps(_plain(options)))
    for name in now:
        if then.get(name) != now[name]:
            was = "another network" if name == "network" else f"{name}={then.get(name)!r}, not {now[name]!r}"
            raise InputError(f"{path}: was written by a tracker with {was}; use the same, or begin the video anew")
    return tensors, kept


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: checksum(value) if isinstance(value, nn.Module) else value for name, value in options.items()}


def checksum(network: nn.Module) -> str:
    """SHA-256 of a network's weights, names and kind."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
