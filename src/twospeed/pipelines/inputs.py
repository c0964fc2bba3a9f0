"""What every pipeline takes, checked in one place before anything is changed: images, and networks or their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError, MaskError
from twospeed.models.protocol import lacks
from twospeed.ops import on_numpy
from twospeed.ops.clicks import Box, Point
from twospeed.results import OnProgress
from twospeed.weights.catalog import find
from twospeed.weights.entries import Entry, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Image: TypeAlias = "NDArray[np.uint8] | Tensor"
Model: TypeAlias = "nn.Module | str | Path"
Device: TypeAlias = "str | torch.device | None"
Array: TypeAlias = Any
"""A tensor, or behind exported models a NumPy array."""

Precision = Literal["fp32", "bf16", "auto"]
"""Number format of a network: "auto" is bfloat16 where the processor or card is made for it."""

_JOBS = {
    "classify": "recognises the action in a clip",
    "detect": "scores what people in boxes do",
    "track": "tracks objects",
    "segment": "labels every pixel",
    "click": "draws masks from clicks",
}


def network_for(
    task: Task,
    model_or_name: Model,
    weights: Any,
    members: tuple[str, ...],
    on_progress: OnProgress | None = None,
    **options: Any,
) -> tuple[Any, Entry | None]:
    """Return the network of a job, built or opened where a name or folder is given, and its line of the catalogue.

    members: what the pipeline calls. on_progress, options: of `create_model`. Raises InputError for a network of
    another job, and as `create_model` does.
    """
    network: Any = model_or_name
    entry = None
    if isinstance(model_or_name, str | Path):
        entry = entry_for(task, model_or_name)
        if entry.exported is None:
            from twospeed.weights.load import create_model

            network = create_model(entry.name, weights, on_progress=on_progress, **options)
        else:
            from twospeed.export.networks import open_network

            if weights != "default" or options:
                what = "weights" if weights != "default" else next(iter(options))
                raise InputError(f"{entry.name} is an exported model, which takes no {what}", option=what)
            network = open_network(entry.exported)
    elif not hasattr(network, "arrays"):
        from torch import nn

        if not isinstance(network, nn.Module):
            raise InputError(
                f"{network!r:.60} is not a network; give a torch.nn.Module or a name that list_models() returns"
            )
    if missing := lacks(network, members):
        name = entry.name if entry else type(network).__name__
        raise InputError(
            f"{name} is not a network that {_JOBS[task]}: it has no `{'`, `'.join(missing)}`; "
            "see twospeed.models.protocol"
        )
    return network, entry


def entry_for(task: Task, name: str | Path) -> Entry:
    """Return a model's line of the catalogue, or an exported one's.

    Raises InputError for one of another task, or that is not there.
    """
    entry = find(name)
    if entry.task != task:
        raise InputError(
            f"{name} is a network of the task {entry.task!r}, not one that {_JOBS[task]}; "
            f"list_models({task!r}) returns those that do",
            option="model",
        )
    return entry


def is_exported(model_or_name: Any) -> bool:
    """Return whether this is an exported model, or the folder of one."""
    if isinstance(model_or_name, str | Path):
        return find(model_or_name).exported is not None
    return hasattr(model_or_name, "arrays")


def one_or_several(model_or_name: Model | Sequence[Model] | None) -> list[Any]:
    """List the networks of an ensemble; one alone is a list of one."""
    return list(model_or_name) if isinstance(model_or_name, list | tuple) else [model_or_name]


def place(
    model_or_name: Model | Sequence[Model], device: Device, precision: str = "fp32"
) -> tuple[Any, Literal["fp32", "bf16"], Any]:
    """Return the device, precision and its type in which networks are to run: "cpu", "fp32", None for exported ones.

    Raises InputError for a device that cannot be used, an unknown precision, or what an exported model cannot do.
    """
    models = one_or_several(model_or_name)
    if exported := [model for model in models if is_exported(model)]:
        if len(exported) < len(models):
            raise InputError("exported models and others cannot be averaged; export all of them")
        for name, value, allowed in (
            ("device", str(device or "cpu"), ("cpu",)),
            ("precision", precision, ("fp32", "auto")),
        ):
            if value not in allowed:
                raise InputError(
                    f"{name} is {value!r}, but {exported[0]} is an exported model, which runs on the CPU in the "
                    "precision of its export; leave it out",
                    option=name,
                )
        return "cpu", "fp32", None
    from twospeed.environment import resolve_device

    where = resolve_device(device)
    used = used_precision(precision, where)
    return where, used, type_of(used)


def arrays_of(network: Any) -> ModuleType:
    """Return the module that computes on a network's kind of arrays, or on an array: `ops.on_torch`, `ops.on_numpy`."""
    if hasattr(network, "arrays"):
        return network.arrays
    if isinstance(network, np.ndarray):
        return on_numpy
    from twospeed.ops import on_torch

    return on_torch


def optimised(network: Any, dtype: Any = None) -> Any:
    """Return what `models.optimise.optimise` makes of a network; an exported one as it is."""
    if hasattr(network, "arrays"):
        return network
    import torch

    from twospeed.models.optimise import optimise

    return optimise(network, dtype or torch.float32)


def autocast_type(network: Any, dtype: Any) -> Any:
    """Return the type in which `ops.bf16.autocast` runs a network: float32, as it is, where its weights have `dtype`.

    Those that `optimise` makes for bfloat16 compute in it by themselves, and their head in float32.
    """
    if hasattr(network, "arrays"):
        return None
    import torch

    own = any(value.dtype == dtype for value in (*network.parameters(), *network.buffers()))
    return torch.float32 if own else dtype


def used_precision(precision: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what "auto" stands for on a device, and others as they are. Raises InputError for no precision.

    "auto" is "bf16" where the device multiplies in it (`ops.bf16.multiplies_bf16`). It does not depend on the load.
    """
    from twospeed.ops.bf16 import multiplies_bf16

    match precision:
        case "fp32" | "bf16":
            return precision
        case "auto":
            return "bf16" if multiplies_bf16(device) else "fp32"
    raise InputError(f"precision is {precision!r}; choose 'fp32', 'bf16' or 'auto'", option="precision")


def type_of(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    """Return the type in which a network computes."""
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32


def checked_prompts(
    image: Image, points: Any, box: Any, start: Any
) -> tuple[NDArray[np.uint8], list[Point], Box | None, NDArray[np.bool_] | None]:
    """Return an image as uint8 (H, W, 3), and prompts as plain numbers and bool (H, W), from arrays or tensors.

    Raises InputError for an image, MaskError for prompts, that no mask can be drawn from.
    """
    pixels = on_numpy.image_pixels(image)
    height, width = pixels.shape[:2]
    where = f"the {width}x{height} image"
    rows = [tuple(point) for point in points]
    if bad := [row for row in rows if len(row) != 3]:
        raise MaskError(f"point {bad[0]} is not (x, y, sign); give +1 (on the object) or -1 (beside it) as its sign")
    corners: Any = None if box is None else tuple(float(value) for value in box)
    if not rows and corners is None and start is None:
        raise MaskError("no prompt: give points, a box, or both")
    for x, y, sign in rows:
        if sign not in (1, -1):
            raise MaskError(f"point {x:g},{y:g} has sign {sign}; give +1 (on the object) or -1 (beside it)")
        if not (0 <= x < width and 0 <= y < height):
            raise MaskError(f"point {x:g},{y:g} lies outside {where}; give x,y in pixels")
    if corners is not None and (len(corners) != 4 or not np.isfinite(corners).all()):
        raise MaskError(f"box {corners} is not x0, y0, x1, y1 in pixels")
    if corners is not None:
        x0, y0, x1, y1 = corners
        if not (min(width, x1) - max(0, x0) >= 1 and min(height, y1) - max(0, y0) >= 1):
            raise MaskError(
                f"the box from {x0:g},{y0:g} to {x1:g},{y1:g} covers no pixel of {where}; give one that lies on it"
            )
    before = None if start is None else on_numpy.integer_labels(on_numpy.of_tensor(start))
    if start is not None and before is None:
        raise MaskError("the mask to correct is not (H, W) of bool or integers")
    mask = None if before is None else before != 0
    if mask is not None and mask.shape != (height, width):
        raise MaskError(f"the mask to correct is {mask.shape[1]}x{mask.shape[0]}, {where} is not; give one of its size")
    if corners is None and (mask is None or not mask.any()) and not any(sign > 0 for _, _, sign in rows):
        raise MaskError("all points are beside the object; give one on it, or a box, or a mask to correct")
    return pixels, [(float(x), float(y), int(sign)) for x, y, sign in rows], corners, mask
