"""What every pipeline takes, checked in one place before anything is changed: images, and networks or their names."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twospeed.errors import InputError
from twospeed.models.protocol import lacks
from twospeed.ops.bf16 import multiplies_bf16
from twospeed.ops.transfer import to_device
from twospeed.results import OnProgress
from twospeed.weights.catalog import Entry, Task, find
from twospeed.weights.load import create_model

Image = NDArray[np.uint8] | Tensor
Model = nn.Module | str
Precision = Literal["fp32", "bf16", "auto"]
"""Number format of a network: "auto" is bfloat16 where the processor or card is made for it."""

_ROUNDING = 1e-5  # by which float images may leave 0..1
_JOBS = {
    "classify": "names what happens in a clip",
    "detect": "scores what people in boxes do",
    "track": "tracks objects",
    "segment": "labels every pixel",
    "click": "draws masks from clicks",
}


def as_tensor(array: NDArray[Any] | Tensor) -> Tensor:
    """Return a tensor that shares the array's memory where it can. Raises InputError for what holds no numbers."""
    if isinstance(array, Tensor):
        return array
    # torch shares memory with numpy and will not take read-only or negatively strided arrays
    numbers = np.require(array, requirements=["C", "W"])
    if numbers.dtype.kind not in "biufc":
        raise InputError(f"an image or mask is an array of numbers, not {type(array).__name__} of {numbers.dtype}")
    return torch.from_numpy(numbers)


def image_tensor(image: Image, device: torch.device) -> Tensor:
    """Return an image as (3, H, W) on a device: uint8 in 0..255 where it came as uint8, else float32 in 0..1.

    image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. Raises InputError for an image of
    another kind, without pixels, or with values outside of 0..1, NaN among them.
    """
    x = as_tensor(image)
    if x.ndim == 3 and x.dtype == torch.uint8 and x.shape[-1] == 3 and x.numel():
        return to_device(x, device).permute(2, 0, 1)
    if x.ndim == 3 and x.is_floating_point() and x.shape[0] == 3 and x.numel():
        low, high = (float(value) for value in x.aminmax())  # where it is: the host waits for a device's images alone
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also false for NaN
            raise InputError(f"image has values from {low:g} to {high:g}; a float image is in 0..1, without NaN")
        return to_device(x, device).float()
    raise InputError(
        f"image is {x.dtype} of shape {tuple(x.shape)}; give uint8 (H, W, 3) RGB, or a float tensor (3, H, W) in 0..1"
    )


def network_for(
    task: Task,
    model_or_name: Model,
    weights: Any,
    members: tuple[str, ...],
    on_progress: OnProgress | None = None,
    **options: Any,
) -> tuple[nn.Module, Entry | None]:
    """Return the network of a job, built where a name is given, and its line of the catalogue, if any.

    members: what the pipeline calls. on_progress, options: of `create_model`. Raises InputError for a network of
    another job, and as `create_model` does.
    """
    entry = None
    if isinstance(model_or_name, str):
        entry = entry_for(task, model_or_name)
        network = create_model(model_or_name, weights, on_progress=on_progress, **options)
    else:
        network = model_or_name
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


def entry_for(task: Task, name: str) -> Entry:
    """Return a model's line of the catalogue. Raises InputError for a name of another task, or that is not there."""
    entry = find(name)
    if entry.task != task:
        raise InputError(
            f"{name} is a network of the task {entry.task!r}, not one that {_JOBS[task]}; "
            f"list_models({task!r}) returns those that do",
            option="model",
        )
    return entry


def autocast_type(network: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Return the type in which `ops.bf16.autocast` runs a network: float32, as it is, where its weights have `dtype`.

    Those that `optimise` makes for bfloat16 compute in it by themselves, and their head in float32.
    """
    own = any(value.dtype == dtype for value in (*network.parameters(), *network.buffers()))
    return torch.float32 if own else dtype


def used_precision(precision: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what "auto" stands for on a device, and others as they are. Raises InputError for no precision.

    "auto" is "bf16" where the device multiplies in it (`ops.bf16.multiplies_bf16`). It does not depend on the load.
    """
    match precision:
        case "fp32" | "bf16":
            return precision
        case "auto":
            return "bf16" if multiplies_bf16(device) else "fp32"
    raise InputError(f"precision is {precision!r}; choose 'fp32', 'bf16' or 'auto'", option="precision")


def type_of(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    """Return the type in which a network computes."""
    return torch.bfloat16 if precision == "bf16" else torch.float32
