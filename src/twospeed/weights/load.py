"""The one way in which weights enter a network: read, convert, check every key, load."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from twospeed.errors import CheckpointError, InputError, OutputError
from twospeed.weights import store
from twospeed.weights.catalog import CATALOG, Entry, find
from twospeed.weights.imports import check_there, read_state, unwrap

_log = logging.getLogger(__name__)

WeightsSource = str | Path | Mapping[str, Any] | None


def create_model(
    name: str, weights: WeightsSource = "default", *, device: str | torch.device | None = None, **options: Any
) -> nn.Module:
    """Build a network by its catalogue name, in eval mode.

    weights: "default" (what the catalogue lists: shipped with the package, or downloaded once), a path to a twospeed
    `.safetensors` file or to the original authors' checkpoint, a state dict in either naming, or None for random
    initialisation, which is logged as a warning. GSVNet is three networks: {"keyframe": ..., "flow": ...,
    "propagation": ...}, each of them a path or a state dict (None leaves a part at its initial values), or the authors'
    `.tar` with keyframe_weights=... beside it. device: where the network goes, None keeps it on the CPU. options: the
    builder's arguments; what the weights' shapes determine is read from them.

    Raises InputError (unknown name or option), CheckpointError (weights that do not fit: every missing, unknown and
    mis-shaped key is listed; an option that disagrees with the weights), WeightsUnavailable (no default weights exist,
    or they are neither on this machine nor can be downloaded).
    """
    entry = find(name)
    parts = _parts(entry, weights, options.pop("keyframe_weights", None))
    if parts is not None:
        joined = _converter(entry).join_parts(parts)
        model = build_from_state(entry, joined, options, "the given weights", {}, initial=parts)
    elif weights is None:
        _log.warning("%s has random weights (weights=None): its results mean nothing before it is trained", name)
        model = build(entry, options)
    else:
        state, where, stored_options = _read(entry, weights)
        model = build_from_state(entry, state, options, where, stored_options)
    return model.eval() if device is None else model.eval().to(device)


def build_from_state(
    entry: Entry,
    state: Mapping[str, Tensor],
    options: Mapping[str, Any],
    where: str,
    stored: Mapping[str, Any],
    *,
    initial: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the network that a state dict (authors' naming or ours) belongs to, and load it strictly.

    options: what the caller asks for; it may not disagree with what names and shapes determine. stored: options
    recorded in the file, which hold where the caller says nothing. Raises CheckpointError.
    """
    converter = _converter(entry)
    ours: dict[str, Tensor] = converter.to_ours(state)
    known: dict[str, Any] = converter.options_from(ours, entry.name)
    for key, value in options.items():
        if key in known and _plain(known[key]) != _plain(value):
            raise CheckpointError(
                f"{where}: the weights say {key}={known[key]!r}, but {key}={value!r} was asked for; drop the option"
            )
    model = build(entry, {**stored, **known, **options})
    for key, value in model.state_dict().items():
        # Numbers of the preprocessing that lie among the weights give way to what the caller says
        if key in getattr(converter, "OVERRIDABLE", ()) and key.rpartition(".")[2] in options:
            ours[key] = value
    if hasattr(converter, "complete"):
        converter.complete(model, ours, initial or {})
    _load_strictly(model, ours, where, entry.name)
    return model


def _plain(value: Any) -> Any:
    """A list and a tuple of the same numbers are the same option."""
    return tuple(value) if isinstance(value, list) else value


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Guess which catalogue model a state dict belongs to; None when no family knows its keys."""
    for module in sorted({entry.converter for entry in CATALOG.values()}):
        guess: str | None = importlib.import_module(module).recognise(state)
        if guess is not None:
            return guess
    return None


def weights_sha256(name: str, weights: WeightsSource) -> str | None:
    """Checksum of the file that `create_model(name, weights)` reads; None when it reads none. Raises as it does."""
    if weights == "default":
        return store.sha256(store.default_weights(find(name)))
    if not isinstance(weights, str | Path):
        return None
    check_there(Path(weights))
    return store.sha256(Path(weights))


def _parts(entry: Entry, weights: WeightsSource, keyframe_weights: WeightsSource) -> Mapping[str, Any] | None:
    """Return the sources of a composed network's parts, or None where there is one source for all of it."""
    names = getattr(_converter(entry), "PARTS", ())
    if isinstance(weights, Mapping) and set(weights) & set(names):
        return weights
    if keyframe_weights is None:
        return None
    if not names:
        raise InputError(f"{entry.name} takes no keyframe_weights; give all of its weights as weights=")
    if weights == "default":
        raise InputError(
            "keyframe_weights come with weights of the propagation: give them as weights=FILE, or weights=None to "
            "start a training from random ones",
            option="weights",
        )
    rest = {"flow": None, "propagation": None} if weights is None else {"propagation": weights}
    return {"keyframe": keyframe_weights, **rest}


def _read(entry: Entry, weights: str | Path | Mapping[str, Any]) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    if isinstance(weights, Mapping):
        return unwrap(weights, "the state dict"), "the state dict", {}
    path = store.default_weights(entry) if weights == "default" else Path(weights)
    state, metadata = read_state(path)
    made_for = metadata.get("model", "")
    if made_for in CATALOG and CATALOG[made_for].converter != entry.converter:
        raise CheckpointError(f"{path} does not fit {entry.name}: it holds weights of {made_for}; choose that model")
    try:
        stored = json.loads(metadata.get("options", "{}"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: its recorded options are not JSON; convert it again") from error
    return state, str(path), dict(stored)


def _converter(entry: Entry) -> ModuleType:
    return importlib.import_module(entry.converter)


def build(entry: Entry, options: Mapping[str, Any]) -> nn.Module:
    """Build a network with its initial values. Raises InputError for an option that the builder does not take."""
    module, function = entry.builder.split(":")
    builder = getattr(importlib.import_module(module), function)
    try:
        model: nn.Module = builder(**options)
    except TypeError as error:
        raise InputError(f"{entry.name}: {str(error).partition('() ')[2] or error}") from error
    except ValueError as error:
        raise InputError(f"{entry.name}: {error}") from error
    return model


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str, name: str) -> None:
    expected = model.state_dict()
    # Files older than torch 0.4.1 lack these counters, which nothing here reads
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected]
    misshaped = [
        f"{key} {tuple(state[key].shape)} where {tuple(expected[key].shape)} is expected"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if missing or unknown or misshaped:
        report = [
            f"{len(keys)} {kind}: {_listed(keys)}"
            for kind, keys in (("missing", missing), ("unknown", unknown), ("mis-shaped", misshaped))
            if keys
        ]
        raise CheckpointError(f"{where} does not fit {name}; {'; '.join(report)}")
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{where}: {key} holds NaN or infinity; the file is damaged or training diverged")
    model.load_state_dict({key: state.get(key, value) for key, value in expected.items()})


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys)


def save_model(model: nn.Module, path: Path, *, model_name: str, source: Mapping[str, str] | None = None) -> None:
    """Write a network's weights as `.safetensors` with its name and provenance in the metadata, whole or not at all.

    Options that weights cannot tell are kept too, where the network states them in `recorded_options`. Raises
    OutputError when the file cannot be written.
    """
    metadata = {"format": "pt", "model": model_name, **(source or {})}
    if recorded := getattr(model, "recorded_options", None):
        metadata["options"] = json.dumps(recorded)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, partial, metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path} ({error}); free space, or choose another folder") from error
