"""The one way in which weights enter a network: read, convert, check every key, load."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from twospeed.environment import resolve_device
from twospeed.errors import CheckpointError, InputError, OutputError, TwospeedError
from twospeed.files import atomic_file
from twospeed.results import OnProgress
from twospeed.weights import store
from twospeed.weights.catalog import CATALOG, find
from twospeed.weights.entries import Entry
from twospeed.weights.imports import read_state, unwrap
from twospeed.weights.pickles import printable

_log = logging.getLogger(__name__)
_MOST_WITHOUT_WEIGHTS = 100_000_000  # values that a network may have beyond its weights: parts that start at random
_LARGEST_OPTION = 4096

WeightsSource = str | Path | Mapping[str, Any] | None


_kept: dict[tuple[Any, ...], nn.Module] | None = None


def keep_networks() -> None:
    """Let this process build each network once: from here on, `create_model` with the same arguments returns the same.

    For processes that work on many videos. Pipelines run optimised copies and leave the network itself as it is; who
    changes what `create_model` returns must not call this. A file of weights that changes meanwhile is read again.
    Networks with random weights or weights given as tensors are built anew.
    """
    global _kept
    _kept = {} if _kept is None else _kept


def create_model(
    name: str,
    weights: WeightsSource = "default",
    *,
    device: str | torch.device | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> nn.Module:
    """Build a network by its catalogue name, in eval mode.

    weights: "default" (what the catalogue lists: shipped with the package, or downloaded once), a path to a twospeed
    `.safetensors` file or to the original authors' checkpoint, "hf://user/repository/file", a state dict in either
    naming, or None for random initialisation, which is logged as a warning. GSVNet is three networks: {"keyframe": ...,
    "flow": ..., "propagation": ...}, each of them a path or a state dict (None leaves a part at its initial values), or
    the authors' `.tar` with keyframe_weights=... beside it. device: where the network goes, None keeps it on the CPU.
    on_progress: called while default weights are downloaded. options: the builder's arguments; what the weights' shapes
    determine is read from them.

    Raises InputError (unknown name, option or device), CheckpointError (weights that do not fit: every missing, unknown
    and mis-shaped key is listed; an option that disagrees with the weights), WeightsUnavailable (no default weights
    exist, or they are neither on this machine nor can be downloaded).
    """
    where = None if device is None else resolve_device(device)
    key = _key(name, weights, where, options)
    if _kept is not None and key in _kept:
        return _kept[key]
    entry = find(name)
    if entry.exported is not None:
        raise InputError(f"{name} is an exported model; give its folder to Tracker, Segmenter, Classifier or Detector")
    model = _create(entry, weights, on_progress, options)
    model = model.eval() if where is None else model.eval().to(where)
    if _kept is not None and key is not None:
        _kept[key] = model
    return model


def _key(name: str, weights: WeightsSource, device: Any, options: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return the key of a network that is kept; None for one that is not kept."""
    given = [weights, *([options["keyframe_weights"]] if "keyframe_weights" in options else [])]
    files = [Path(part) for part in given if isinstance(part, str | Path)]
    if _kept is None or len(files) < len(given):
        return None
    states = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
    return (name, *map(str, given), *states, str(device), repr(sorted(options.items(), key=str)))


def _create(entry: Entry, weights: WeightsSource, on_progress: OnProgress | None, options: dict[str, Any]) -> nn.Module:
    name = entry.name
    parts = _parts(entry, weights, options.pop("keyframe_weights", None))
    if parts is not None:
        joined = _converter(entry).join_parts(parts)
        model = build_from_state(entry, joined, options, "the given weights", {}, initial=parts)
    elif weights is None:
        _log.warning("%s has random weights (weights=None): its results mean nothing before it is trained", name)
        model = build(entry, options)
    else:
        state, where, metadata = _read(entry, weights, on_progress)
        stored = _stored_options(metadata.get("options", "{}"), where, entry)
        model = build_from_state(entry, state, options, where, stored)
        if "classes" in metadata:
            model.__dict__["class_names"] = _class_names(metadata["classes"], where, model)
    return model


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
    try:
        ours: dict[str, Tensor] = converter.to_ours(state)
        known: dict[str, Any] = converter.options_from(ours, entry.name)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:  # shapes that no network of the family has
        if isinstance(error, TwospeedError):
            raise
        raise CheckpointError(f"{where} does not fit {entry.name}; its tensors have other shapes ({error})") from error
    for key, value in options.items():
        if key in known and _plain(known[key]) != _plain(value):
            raise CheckpointError(
                f"{where}: the weights say {key}={known[key]!r}, but {key}={value!r} was asked for; drop the option"
            )
    chosen = {**stored, **known, **options}
    try:
        _check_size(entry, chosen, ours, where)
        model = build(entry, chosen)
    except InputError as error:
        if not stored and not known:
            raise
        raise CheckpointError(f"{where} does not fit {entry.name} ({error})") from error
    for key, value in model.state_dict().items():
        # Numbers of the preprocessing that lie among the weights give way to what the caller says
        if key in getattr(converter, "OVERRIDABLE", ()) and key.rpartition(".")[2] in options:
            ours[key] = value
    if hasattr(converter, "complete"):
        converter.complete(model, ours, initial or {})
    load_strictly(model, ours, where, entry.name)
    return model


def _check_size(entry: Entry, options: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError for options or shapes that ask for a network far larger than the weights."""
    with torch.device("meta"):
        needed = sum(value.numel() for value in build(entry, options).state_dict().values())
    given = sum(value.numel() for value in state.values())
    if needed > 2 * given + _MOST_WITHOUT_WEIGHTS:
        raise CheckpointError(f"{where} does not fit {entry.name}: that network has {needed} values, the file {given}")


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


def model_of(weights: str | Path) -> str:
    """Name the catalogue model that a file of weights is of: as recorded in it, else recognised by its keys.

    Raises CheckpointError for a file that cannot be read, or that no model has.
    """
    path = store.local_file(weights)
    state, metadata = read_state(path)
    name = _recorded_model(state, metadata) or recognise(state)
    if name is None or name not in CATALOG:
        what = f"records the model {printable(name)}" if name else f"has {len(state)} keys ({next(iter(state))!r}, ...)"
        raise CheckpointError(f"{path}: {what}, which is none that twospeed has; name the model", option="model")
    return name


def _recorded_model(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return today's name of the model that a file records, "" for none."""
    name = metadata.get("model", "")
    # Its first two versions are another network, which is `track_tiny` since the third
    return "track_tiny" if name == "track_nano" and recognise(state) == "track_tiny" else name


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


def _read(
    entry: Entry, weights: str | Path | Mapping[str, Any], on_progress: OnProgress | None
) -> tuple[dict[str, Tensor], str, dict[str, str]]:
    """Return tensors, where they are from, and what the file records beside them."""
    if isinstance(weights, Mapping):
        return unwrap(weights, "the state dict"), "the state dict", {}
    if not isinstance(weights, str | os.PathLike):
        raise InputError(f"weights is {type(weights).__name__}; give 'default', a path, a state dict or None")
    default = weights == "default"
    path = store.default_weights(entry, on_progress=on_progress) if default else store.local_file(weights)
    state, metadata = read_state(path)
    made_for = _recorded_model(state, metadata)
    if made_for not in CATALOG and hasattr(_converter(entry), "mistaken"):
        made_for = _converter(entry).mistaken(state, entry.name) or ""
    if made_for in CATALOG and made_for != entry.name:
        raise CheckpointError(
            f"{path} does not fit {entry.name}: it holds weights of {made_for}; choose that model", option="model"
        )
    return state, str(path), metadata


def _class_names(text: str, where: str, model: nn.Module) -> tuple[str, ...]:
    """Names of the classes that a file records. Raises CheckpointError for what `save_model` would not write."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(f"{where}: its recorded class names are not a JSON list of names; train or convert again")
    classes = getattr(model, "num_classes", len(names))
    if len(names) != classes:
        raise CheckpointError(
            f"{where}: records {len(names)} class names for {classes} classes; train or convert again"
        )
    return tuple(names)


def _stored_options(text: str, path: str, entry: Entry) -> dict[str, Any]:
    """Options that a file records beside its weights. Raises CheckpointError for what `save_model` would not write."""
    try:
        stored = json.loads(text) if len(text) <= 10_000 else None
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: its recorded options are not a JSON object; convert the original again")
    usual: Mapping[str, Any] = {}
    if stored:
        with torch.device("meta"):
            usual = getattr(build(entry, {}), "recorded_options", {})
    for name, value in stored.items():
        numbers = value if isinstance(value, list) else [value]
        if any(
            isinstance(number, int | float) and not isinstance(number, bool) and not 0 <= number <= _LARGEST_OPTION
            for number in numbers
        ):
            raise CheckpointError(
                f"{path}: its recorded option {printable(name)} is {printable(json.dumps(value))}; numbers from 0 to "
                f"{_LARGEST_OPTION} are possible; convert the original again"
            )
        plain = all(isinstance(number, bool | int | float | str | None) for number in numbers) and len(numbers) <= 100
        if not plain or (usual.get(name) is not None and _kind(usual[name]) != _kind(value)):
            raise CheckpointError(
                f"{path}: its recorded option {printable(name)} is {printable(json.dumps(value))}, which it cannot be"
            )
    return stored


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


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
    except (ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise InputError(f"{entry.name}: {error}") from error
    return model


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str, name: str) -> None:
    """Load weights from `where` into the network of this name. Raises CheckpointError with every key that is wrong."""
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
            f"{len(keys)} {kind}: {', '.join(map(printable, keys))}"
            for kind, keys in (("missing", missing), ("unknown", unknown), ("mis-shaped", misshaped))
            if keys
        ]
        raise CheckpointError(f"{where} does not fit {name}; {'; '.join(report)}")
    for key, value in state.items():
        if fault := _fault(key, value, expected[key].dtype):
            raise CheckpointError(f"{where}: {printable(key)} {fault}")
    model.load_state_dict({key: state.get(key, value) for key, value in expected.items()})


def _fault(key: str, value: Tensor, dtype: torch.dtype) -> str:
    """What makes a tensor unusable as the parameter or buffer of this name and dtype; empty for a good one."""
    if value.is_meta or value.layout != torch.strided or value.is_quantized:
        return "is sparse, quantised or without values; dense tensors with values are expected"
    if key.endswith("num_batches_tracked"):  # counts that nothing here reads; averaged weights hold fractions
        return ""
    integer = not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool
    if not (value.is_floating_point() if dtype.is_floating_point else integer):
        return f"is {value.dtype} where {dtype} is expected".replace("torch.", "")
    if dtype.is_floating_point:
        if not bool(torch.isfinite(value.to(dtype)).all()):
            return "holds NaN or infinity; the file is damaged or training diverged"
        if key.endswith("running_var") and value.numel() and float(value.min()) < 0:
            return f"holds a variance of {float(value.min()):.4g}; the file is damaged or training diverged"
    return ""


def save_model(
    model: nn.Module,
    path: str | Path,
    *,
    model_name: str | None = None,
    source: Mapping[str, str] | None = None,
    half_precision: bool = False,
) -> None:
    """Write a network's weights as `.safetensors` with its name and origin in the metadata, whole or not at all.

    model_name: its catalogue name; recognised from the names of the weights if left out. Options that weights do
    not show are kept too, where the network states them in `recorded_options`, and `class_names` where it has them.
    half_precision: write convolutions and matrices in 16 bits, half the size; `create_model` brings them back to 32.
    Raises CheckpointError, and writes nothing, for weights with NaN, infinity or negative variances; OutputError when
    the file cannot be written.
    """
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    if half_precision:
        matrices = {name for name, parameter in model.named_parameters() if parameter.ndim > 1}
        state = {key: value.half() if key in matrices else value for key, value in state.items()}
    faults = [(key, fault) for key, value in state.items() if (fault := _fault(key, value, value.dtype))]
    if faults:
        raise CheckpointError(
            f"{path} was not written: {len(faults)} of {len(state)} tensors are damaged; {faults[0][0]} {faults[0][1]}"
        )
    metadata = {"format": "pt", "model": model_name or recognise(state) or "", **(source or {})}
    if names := getattr(model, "class_names", None):
        metadata["classes"] = json.dumps(names)
    if recorded := getattr(model, "recorded_options", None):
        metadata["options"] = json.dumps(recorded)
    with atomic_file(Path(path)) as temporary:
        try:
            save_file(state, temporary, metadata)
        except SafetensorError as error:  # its own name for a full disk, or a folder that is not there
            raise OutputError(f"cannot write {path} ({error}); free space, or choose another folder") from error
