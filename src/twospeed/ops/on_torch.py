"""What the tracker and the segmenter compute on images and masks themselves, in torch. `on_numpy` has the same names.

Pipelines are written against these two modules, so that exported graphs run without torch. What both kinds of arrays
have in common (indexing, arithmetic, `sum`, `any`) is used as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from twospeed.errors import InputError
from twospeed.ops.bf16 import autocast as autocast
from twospeed.ops.cuts import is_cut as is_cut
from twospeed.ops.cuts import small_image as small_image
from twospeed.ops.full_labels import best_class as best_class
from twospeed.ops.full_labels import full_size_labels as full_size_labels
from twospeed.ops.masks import one_hot as one_hot
from twospeed.ops.masks import soft_aggregate
from twospeed.ops.on_numpy import ROUNDING
from twospeed.ops.pad import Padding
from twospeed.ops.side_by_side import twin as twin
from twospeed.ops.transfer import HostCopy as HostCopy
from twospeed.ops.transfer import to_device
from twospeed.ops.warp import backward_warp as backward_warp

Mode = Literal["nearest", "bilinear", "bicubic"]

cat = torch.cat
sigmoid = torch.sigmoid


def inference() -> AbstractContextManager[Any]:
    """Return the context in which everything runs."""
    return torch.inference_mode()


def as_array(given: Any) -> Tensor:
    """Return a tensor that shares the array's memory where it can. Raises InputError for what holds no numbers."""
    if isinstance(given, Tensor):
        return given
    # torch shares memory with numpy and will not take read-only or negatively strided arrays
    numbers = np.require(given, requirements=["C", "W"])
    if numbers.dtype.kind not in "biufc":
        raise InputError(f"an image or mask is an array of numbers, not {type(given).__name__} of {numbers.dtype}")
    return torch.from_numpy(numbers)


def image_array(image: Any, device: Any) -> Tensor:
    """Return an image as (3, H, W) on a device: uint8 in 0..255 where it came as uint8, else float32 in 0..1.

    image: uint8 (H, W, 3) RGB, numpy or tensor; or a float tensor (3, H, W) in 0..1. Raises InputError for an image of
    another kind, without pixels, or with values outside of 0..1, NaN among them.
    """
    x = as_array(image)
    if x.ndim == 3 and x.dtype == torch.uint8 and x.shape[-1] == 3 and x.numel():
        return to_device(x, device).permute(2, 0, 1)
    if x.ndim == 3 and x.is_floating_point() and x.shape[0] == 3 and x.numel():
        low, high = (float(value) for value in x.aminmax())  # where it is: the host waits for a device's images alone
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also false for NaN
            raise InputError(f"image has values from {low:g} to {high:g}; a float image is in 0..1, without NaN")
        return to_device(x, device).float()
    raise InputError(
        f"image is {x.dtype} of shape {tuple(x.shape)}; give uint8 (H, W, 3) RGB, or a float tensor (3, H, W) in 0..1"
    )


def is_8_bit(image: Tensor) -> bool:
    """Return whether an image has 8-bit values."""
    return image.dtype == torch.uint8


def as_float(x: Tensor) -> Tensor:
    """Return the same values as float32."""
    return x.float()


def integer_labels(masks: Any, device: Any) -> Tensor | None:
    """Return label maps as int64 (H, W) on a device; None for what is no map of integers."""
    x = as_array(masks)
    return None if x.is_floating_point() or x.ndim != 2 else x.to(device, torch.int64)


def unique(labels: Tensor) -> list[int]:
    """List the different values of integers, rising."""
    return [int(value) for value in labels.unique()]


def on_device(x: Tensor, device: Any) -> Tensor:
    """Return the same values on a device, without waiting for it."""
    return to_device(x, device)


def cut_sample(image: Tensor) -> Tensor:
    """Return a given image, uint8 (H, W, 3) or float (3, H, W), as `is_cut` compares it, on the host.

    One that is there is looked at there, so that nothing waits for the device.
    """
    small = small_image(image.permute(2, 0, 1) if is_8_bit(image) else image)
    return small if image.device.type == "cpu" else small.cpu()


def channels_first(frames: Tensor) -> Tensor:
    """Return frames (T, H, W, 3) as images (T, 3, H, W), channels last in memory."""
    return frames.permute(0, 3, 1, 2)


def stacked_clips(clips: list[Tensor]) -> Tensor:
    """Return clips (T, 3, H, W) as one batch (S, 3, T, H, W), channels last in memory."""
    return torch.stack([clip.permute(0, 2, 3, 1) for clip in clips]).permute(0, 4, 1, 2, 3)


def mirrored(x: Tensor) -> Tensor:
    """Return images mirrored left to right."""
    return x.flip(-1)


def softmax(x: Tensor) -> Tensor:
    """Return the softmax along the last axis."""
    return x.softmax(-1)


def zeros(like: Tensor, *shape: int) -> Tensor:
    """Make an array of zeros, of the same type and on the same device."""
    return like.new_zeros(shape)


def aggregate(probabilities: Tensor) -> Tensor:
    """Let objects compete for each pixel: (K, H, W) in 0..1 -> (K+1, H, W), background first, summing to one."""
    return soft_aggregate(probabilities[None]).softmax(1)[0]


def pad(x: Tensor, padding: Padding, value: float = 0.0) -> Tensor:
    """Add a constant border. Shapes: (..., H, W) -> (..., H', W')."""
    return F.pad(x, padding, value=value) if any(padding) else x


def resize(x: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """Resize (..., C, H, W) or (C, H, W) with half-pixel centres, "nearest" by floor; x itself at its own size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    batch = x if x.ndim == 4 else x[None]
    if mode == "bicubic" and x.device.type == "cpu" and x.dtype == torch.float32:
        # An eighth of the time of torch's, and a hundredth of its distance from double precision
        images = batch.permute(0, 2, 3, 1).numpy()
        moved = torch.from_numpy(
            np.stack([cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC) for image in images])
        )
        return moved.permute(0, 3, 1, 2) if x.ndim == 4 else moved[0].permute(2, 0, 1)
    moved = F.interpolate(batch, size, mode=mode, align_corners=None if mode == "nearest" else False)
    return moved if x.ndim == 4 else moved[0]


def resize_aligned(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W) bilinearly, corners aligned."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def for_network(x: Tensor) -> Tensor:
    """Return an image in the memory order that networks run fastest on."""
    return x.contiguous(memory_format=torch.channels_last)


def contiguous(x: Tensor) -> Tensor:
    """Return the same values row by row in memory."""
    return x.contiguous()


def on_host(x: Tensor) -> Tensor:
    """Return the same values in the host's memory."""
    return x.cpu()


def to_numpy(x: Tensor) -> NDArray[Any]:
    """Return the same values as a NumPy array."""
    return x.contiguous().cpu().numpy()


def save_arrays(arrays: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write arrays by name as a `.safetensors` file."""
    # Inference tensors and parameters alike: plain copies on the host
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in arrays.items()}, path, metadata)


@contextmanager
def open_arrays(path: Path, device: Any) -> Iterator[tuple[Mapping[str, str], dict[str, Tensor]]]:
    """Give the metadata and the arrays of a `.safetensors` file. Raises what safetensors raises."""
    with safe_open(path, "pt", device=str(device)) as file:
        yield file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
