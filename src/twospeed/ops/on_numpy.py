"""What `on_torch` computes, in NumPy and OpenCV: behind exported graphs, where torch is not there.

Each function is documented there; results agree to the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from twospeed.errors import InputError
from twospeed.ops.pad import Padding

Array = NDArray[Any]
Mode = Literal["nearest", "bilinear", "bicubic"]

ROUNDING = 1e-5
"""By which float images may leave 0..1."""

SMALL_SIZE = (18, 32)  # of the image in which cuts are found
BINS = 4  # of each channel's histogram
SAMPLES = 4  # rows and columns looked at for each cell of the small image, about

LEAST_DIFFERENCE = 0.12
"""Mean difference of two small images, 0..1, from which a cut is possible."""

MOST_OVERLAP = 0.7
"""Overlap of two colour histograms, 0..1, below which it is one: no pair of consecutive frames of 14 DAVIS sequences
(853 pairs, least overlap 0.85), 95 % of 910 pairs of frames from two different sequences, 1.5 % of frames 5 apart."""


def inference() -> AbstractContextManager[Any]:
    """As `on_torch.inference`."""
    return nullcontext()


def autocast(device: Any, dtype: Any = None, network: Any = None) -> AbstractContextManager[Any]:
    """Do nothing: the precision of a graph is fixed."""
    return nullcontext()


def as_array(given: Any) -> Array:
    """As `on_torch.as_array`."""
    numbers = np.asarray(given)
    if numbers.dtype.kind not in "biufc":
        raise InputError(f"an image or mask is an array of numbers, not {type(given).__name__} of {numbers.dtype}")
    return numbers


def image_array(image: Any, device: Any = None) -> Array:
    """As `on_torch.image_array`, of NumPy arrays."""
    x = as_array(image)
    if x.ndim == 3 and x.dtype == np.uint8 and x.shape[-1] == 3 and x.size:
        return x.transpose(2, 0, 1)
    if x.ndim == 3 and x.dtype.kind == "f" and x.shape[0] == 3 and x.size:
        x = x.astype(np.float32)
        low, high = float(x.min()), float(x.max())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also false for NaN
            raise InputError(f"image has values from {low:g} to {high:g}; a float image is in 0..1, without NaN")
        return x
    raise InputError(
        f"image is {x.dtype} of shape {tuple(x.shape)}; give uint8 (H, W, 3) RGB, or a float array (3, H, W) in 0..1"
    )


def of_tensor(given: Any) -> Any:
    """Return a tensor's values as an array on the host, and anything else as it is."""
    return given.detach().cpu().numpy() if hasattr(given, "detach") else given


def image_pixels(image: Any) -> NDArray[np.uint8]:
    """Return what `image_array` takes, array or tensor, as uint8 (H, W, 3). Raises InputError as it does."""
    x = image_array(of_tensor(image))
    if not is_8_bit(x):
        x = np.rint(255 * x.clip(0, 1)).astype(np.uint8)
    return np.ascontiguousarray(x.transpose(1, 2, 0))


def is_8_bit(image: Array) -> bool:
    """As `on_torch.is_8_bit`."""
    return bool(image.dtype == np.uint8)


def as_float(x: Array) -> Array:
    """As `on_torch.as_float`."""
    return np.asarray(x, np.float32)


def integer_labels(masks: Any, device: Any = None) -> Array | None:
    """As `on_torch.integer_labels`."""
    x = as_array(masks)
    return x.astype(np.int64) if x.dtype.kind in "biu" and x.ndim == 2 else None


def unique(labels: Array) -> list[int]:
    """As `on_torch.unique`."""
    return [int(value) for value in np.unique(labels)]


def on_device(x: Array, device: Any) -> Array:
    """As `on_torch.on_device`: there is one."""
    return x


def channels_first(frames: Array) -> Array:
    """As `on_torch.channels_first`."""
    return frames.transpose(0, 3, 1, 2)


def stacked_clips(clips: list[Array]) -> Array:
    """As `on_torch.stacked_clips`."""
    return np.stack(clips).swapaxes(1, 2)


def mirrored(x: Array) -> Array:
    """As `on_torch.mirrored`."""
    return x[..., ::-1]


def softmax(x: Array) -> Array:
    """As `on_torch.softmax`."""
    raised = np.exp(x - x.max(-1, keepdims=True))
    result: Array = raised / raised.sum(-1, keepdims=True)
    return result


def zeros(like: Array, *shape: int) -> Array:
    """As `on_torch.zeros`."""
    return np.zeros(shape, like.dtype)


def cat(arrays: Sequence[Array]) -> Array:
    """As `torch.cat`, along the first axis."""
    return np.concatenate(arrays)


def sigmoid(x: Array) -> Array:
    """As `torch.sigmoid`."""
    result: Array = 1 / (1 + np.exp(-np.maximum(x, -80)))  # float32 overflows beyond 88
    return result


def one_hot(labels: Array, object_ids: Sequence[int]) -> Array:
    """As `ops.masks.one_hot`."""
    return np.stack([labels == i for i in object_ids]).astype(np.float32)


def aggregate(probabilities: Array) -> Array:
    """As `on_torch.aggregate`."""
    background = (1 - probabilities).prod(0, keepdims=True)
    stacked = np.concatenate([background, probabilities]).clip(1e-7, 1 - 1e-7, dtype=np.float32)
    odds = stacked / (1 - stacked)  # softmax of their logarithms
    result: Array = odds / odds.sum(0, keepdims=True)
    return result


def pad(x: Array, padding: Padding, value: float = 0.0) -> Array:
    """As `on_torch.pad`."""
    left, right, top, bottom = padding
    around = [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)]
    return np.pad(x, around, constant_values=value) if any(padding) else x


def resize(x: Array, size: tuple[int, int], mode: Mode) -> Array:
    """As `on_torch.resize`."""
    height, width = x.shape[-2:]
    if (height, width) == tuple(size):
        return x
    if mode == "nearest":
        rows = np.minimum((np.arange(size[0]) * (height / size[0])).astype(np.int64), height - 1)
        columns = np.minimum((np.arange(size[1]) * (width / size[1])).astype(np.int64), width - 1)
        return np.ascontiguousarray(x[..., rows[:, None], columns])
    how = cv2.INTER_LINEAR if mode == "bilinear" else cv2.INTER_CUBIC
    planes = np.ascontiguousarray(x, np.float32).reshape(-1, height, width)
    moved = [cv2.resize(plane, (size[1], size[0]), interpolation=how) for plane in planes]
    return np.stack(moved).reshape(*x.shape[:-2], *size)


def resize_aligned(x: Array, size: tuple[int, int]) -> Array:
    """As `on_torch.resize_aligned`."""
    (top, below, fy), (left, right, fx) = (_places(n, m) for n, m in zip(x.shape[-2:], size, strict=True))
    rows = x[..., top, :] + (x[..., below, :] - x[..., top, :]) * fy[:, None]
    result: Array = rows[..., left] + (rows[..., right] - rows[..., left]) * fx
    return result


def _places(length: int, wanted: int) -> tuple[Array, Array, Array]:
    """Where samples lie between values, corners aligned: index before, index behind, how far (0..1)."""
    position = np.arange(wanted, dtype=np.float32) * np.float32((length - 1) / (wanted - 1) if wanted > 1 else 0.0)
    before = np.minimum(position.astype(np.int64), length - 1)
    return before, np.minimum(before + 1, length - 1), (position - before).clip(0, 1).astype(np.float32)


def best_class(scores: Array) -> Array:
    """As `ops.full_labels.best_class`."""
    best, found = scores[0].copy(), np.zeros(scores.shape[1:], np.uint8)
    for index in range(1, len(scores)):
        found[scores[index] > best] = index
        np.maximum(best, scores[index], out=best)
    return found


def full_size_labels(scores: Array, size: tuple[int, int], *, align_corners: bool = True) -> Array:
    """As `ops.full_labels.full_size_labels`."""
    best: Array | None = None
    found = np.zeros(size, np.uint8)
    for index, plane in enumerate(scores):  # one at a time: memory does not grow with the number of classes
        large = resize_aligned(plane, size) if align_corners else resize(plane[None], size, "bilinear")[0]
        if best is None:
            best = large
            continue
        found[large > best] = index
        np.maximum(best, large, out=best)
    return found


def backward_warp(x: Array, flow: Array) -> Array:
    """As `ops.warp.backward_warp`, of one image: (1, C, H, W), (1, 2, H, W)."""
    height, width = x.shape[-2:]
    px = np.arange(width, dtype=np.float32) + flow[0, 0]
    py = np.arange(height, dtype=np.float32)[:, None] + flow[0, 1]
    left, top = np.floor(px).astype(np.int64), np.floor(py).astype(np.int64)
    result = np.zeros_like(x)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            weight = (1 - np.abs(py - row)) * (1 - np.abs(px - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            fetched = x[0][:, row.clip(0, height - 1), column.clip(0, width - 1)]
            result[0] += fetched * (weight * inside).astype(np.float32)
    return result


def small_image(image: Array) -> Array:
    """As `ops.cuts.small_image`."""
    steps = [max(1, side // (SAMPLES * small)) for side, small in zip(image.shape[-2:], SMALL_SIZE, strict=True)]
    x = image[:, :: steps[0], :: steps[1]].astype(np.float64)
    x = x / 255 if is_8_bit(image) else x
    sums = np.pad(x.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    (y0, y1), (x0, x1) = (_bins(side, small) for side, small in zip(x.shape[1:], SMALL_SIZE, strict=True))
    total = sums[:, y1][:, :, x1] - sums[:, y0][:, :, x1] - sums[:, y1][:, :, x0] + sums[:, y0][:, :, x0]
    return (total / ((y1 - y0)[:, None] * (x1 - x0))).astype(np.float32)


def _bins(length: int, count: int) -> tuple[Array, Array]:
    """Where the bins of adaptive average pooling begin and end."""
    numbers = np.arange(count)
    return numbers * length // count, -(-(numbers + 1) * length // count)


def cut_sample(image: Array) -> Array:
    """As `on_torch.cut_sample`."""
    return small_image(image.transpose(2, 0, 1) if is_8_bit(image) else image)


class HostCopy:
    """As `ops.transfer.HostCopy`: the values are there."""

    def __init__(self, x: Array) -> None:
        self._x = np.ascontiguousarray(x)

    def tensor(self) -> Array:
        """As `ops.transfer.HostCopy.tensor`."""
        return self._x

    def numpy(self) -> Array:
        """As `ops.transfer.HostCopy.numpy`."""
        return self._x


def is_cut(before: Array, after: Array) -> bool:
    """As `ops.cuts.is_cut`."""
    if float(np.abs(before - after).mean()) < LEAST_DIFFERENCE:
        return False
    return float(np.minimum(_histogram(before), _histogram(after)).sum()) < MOST_OVERLAP


def _histogram(small: Array) -> Array:
    red, green, blue = (small * BINS).astype(np.int64).clip(0, BINS - 1)
    codes = (red * BINS + green) * BINS + blue
    return np.bincount(codes.ravel(), minlength=BINS**3) / codes.size


def for_network(x: Array) -> Array:
    """As `on_torch.for_network`."""
    return np.ascontiguousarray(x)


def contiguous(x: Array) -> Array:
    """As `on_torch.contiguous`."""
    return np.ascontiguousarray(x)


def on_host(x: Array) -> Array:
    """As `on_torch.on_host`."""
    return x


def to_numpy(x: Array) -> Array:
    """As `on_torch.to_numpy`."""
    return np.ascontiguousarray(x)


def save_arrays(arrays: Mapping[str, Array], path: Path, metadata: dict[str, str]) -> None:
    """As `on_torch.save_arrays`."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, path, metadata)


@contextmanager
def open_arrays(path: Path, device: Any = None) -> Iterator[tuple[Mapping[str, str], dict[str, Array]]]:
    """As `on_torch.open_arrays`."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        yield file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
