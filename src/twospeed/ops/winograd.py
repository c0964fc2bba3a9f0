"""3x3 convolutions by Winograd's minimal filtering: the same sums with a fifth of the multiplications.

An image is cut into tiles of m x m outputs. Each tile's (m+2) x (m+2) inputs become as many values "at points"
(input transform); there the convolution is a product over channels alone, one matrix product for each of the
(m+2)^2 points; the output transform brings the products back to m x m pixels. Per output and pair of channels that
is ((m+2)/m)^2 multiplications instead of 9: 1.78 for m = 6, 2.25 for m = 4.

The transforms are sums of whole rows of channels, so everything here lies channels last in memory, and the work goes
on in blocks of tiles small enough for the processor's last-level cache. No autograd: for networks prepared to run.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; points 0, 1, -1, 2, -2, (1/2,
-1/2,) infinity. Largest error in fp32, of the largest output: 1e-5 (m = 6), 7e-6 (m = 4); the direct convolution: 3e-6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from twospeed.ops.onednn import Orders, grouped_product, packed, packs

Tile = Literal[2, 4, 6]

# Finite points besides 0, each standing for itself and its negative
_PAIRS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (1.0, 2.0), 6: (1.0, 2.0, 0.5)}

# Tiles worked on at once. Fewer make the matrix products small (each reads all weights), more push the block out of
# the cache. Milliseconds on one AVX2 core for 256 -> 256 channels at 120x216, m = 6: 36 tiles 160, 72: 134, 180: 130,
# 360: 137; for 512 -> 512 at 60x108: 18 tiles 179, 90: 115, 180: 107.
_TILES_AT_ONCE = 200


def transform_kernel(weight: Tensor, tile: Tile) -> Tensor:
    """Bring the weights of a 3x3 convolution to the points, once for all images.

    Shapes: weight (O, C, 3, 3) -> ((m+2)^2, C, O) of the same dtype, m = tile; computed in float64.
    """
    pairs = _PAIRS[tile]
    points = [0.0] + [sign * p for p in pairs for sign in (1, -1)]
    rows = [[p**k / math.prod(p - q for q in points if q != p) for k in range(3)] for p in points]
    lift = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64, device=weight.device)  # (m+2, 3)
    lift = torch.kron(lift, lift)  # ((m+2)^2, 9)
    taps = weight.detach().permute(2, 3, 1, 0).flatten(0, 1)  # (9, C, O)
    kernel = weight.new_empty(len(lift), *taps.shape[1:])
    for i in range(0, taps.shape[1], 32):  # some channels at a time: the float64 copy of all would be large
        some = taps[:, i : i + 32].double()
        kernel[:, i : i + 32] = (lift @ some.flatten(1)).view(len(lift), *some.shape[1:])
    return kernel


class Scratch:
    """Memory for one convolution at a time, kept between calls: fresh pages would cost as much as the transforms.

    Grows to the largest request. Not to be shared between threads.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0)
        self._used = 0

    def reset(self, elements: int, like: Tensor) -> None:
        """Start anew with room for so many elements of `like`'s dtype and device."""
        self._used = 0
        if self._buffer.numel() < elements or (self._buffer.dtype, self._buffer.device) != (like.dtype, like.device):
            with torch.inference_mode(False):  # may be written to in any mode
                self._buffer = torch.empty(elements, dtype=like.dtype, device=like.device)

    def mark(self) -> int:
        """Where the free part starts."""
        return self._used

    def release(self, mark: int) -> None:
        """Forget what was taken since `mark`."""
        self._used = mark

    def take(self, *shape: int) -> Tensor:
        """The next part of the memory, uninitialised."""
        start, self._used = self._used, self._used + math.prod(shape)
        return self._buffer[start : self._used].view(shape)


class Kernel:
    """The weights of a 3x3 convolution as `convolve_3x3` needs them, made when that is first known.

    weight: (O, C, 3, 3), which must not change afterwards. tile: m.
    """

    def __init__(self, weight: Tensor, tile: Tile) -> None:
        self.weight, self.tile = weight, tile
        self._parts: dict[tuple[int | None, int | None], Kernel] = {}
        self._at_points: Tensor | None = None
        self._orders = Orders()  # for whole blocks of tiles, and the last one

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernel:
        copied = Kernel(copy.deepcopy(self.weight, memo), self.tile)
        copied._at_points, copied._orders = self._at_points, copy.deepcopy(self._orders, memo)
        return copied

    def part(self, channels: slice) -> Kernel:
        """The kernel of some of the input channels."""
        key = (channels.start, channels.stop)
        if key not in self._parts:
            self._parts[key] = Kernel(self.weight[:, channels], self.tile)
        return self._parts[key]

    def products(self, at_points: Tensor) -> Tensor:
        """Multiply at each point. Shapes: ((tiles, (m+2)^2, C) -> (tiles, (m+2)^2, O)."""
        if not packs(at_points):
            if self._at_points is None:
                self._at_points = transform_kernel(self.weight, self.tile)
            return torch.bmm(at_points.transpose(0, 1), self._at_points).transpose(0, 1)
        tiles = len(at_points)
        order = self._orders(tiles, lambda: packed(transform_kernel(self.weight, self.tile), tiles))
        return grouped_product(at_points, order)


def convolve_3x3(
    inputs: Sequence[Tensor],
    kernel: Kernel,
    bias: Tensor | None = None,
    *,
    rectify_inputs: Sequence[bool] = (),
    add: Tensor | None = None,
    in_place: bool = False,
    rectify: bool = False,
    scratch: Scratch | None = None,
) -> Tensor:
    """Convolve with stride 1 and padding 1: the sum over the inputs of each with its part of the kernel.

    Several inputs are what a convolution of their concatenation computes, without concatenating; also the sum of two
    convolutions, for the price of one output transform.
    Shapes: inputs (B, C_i, H, W), kernel of sum of C_i channels to O, bias (O,), add (B, O, H, W) -> (B, O, H, W),
    channels last in memory; fast when the inputs and `add` are so too.
    rectify_inputs: which inputs pass a ReLU first. add: summed to the result. in_place: `add` becomes the
    result, no memory is reserved. rectify: ReLU at the end.
    """
    B, _, H, W = inputs[0].shape
    m, O = kernel.tile, len(kernel.weight)  # noqa: E741
    images = [x.permute(0, 2, 3, 1) for x in inputs]
    relus = rectify_inputs or (False,) * len(inputs)
    tiles_y, tiles_x = -(-H // m), -(-W // m)
    rows = _even_share(tiles_y, max(1, _TILES_AT_ONCE // tiles_x))
    at_once = _even_share(B, max(1, _TILES_AT_ONCE // (tiles_y * tiles_x)))
    scratch = scratch or Scratch()
    scratch.reset(_elements(at_once * rows, tiles_x, m, [x.shape[-1] for x in images], O), kernel.weight)
    addend = None if add is None else add.permute(0, 2, 3, 1)
    result = addend if in_place and addend is not None else kernel.weight.new_empty(B, H, W, O)
    for first in range(0, B, at_once):
        some = slice(first, min(first + at_once, B))
        for row in range(0, tiles_y, rows):
            block = (some, slice(row, min(row + rows, tiles_y)))
            scratch.release(0)
            y = result[some, block[1].start * m : min(block[1].stop * m, H)]
            products = kernel.products(_input_transform(images, relus, block, tiles_x, m, scratch))
            if bias is not None:
                products[:, m + 3] += bias  # the point (1, 1) reaches every pixel of the tile once
            _output_transform(products, y, tiles_x, m, scratch, accumulate=result is addend)
            if addend is not None and result is not addend:
                y += addend[some, block[1].start * m : min(block[1].stop * m, H)]
            if rectify:
                y.relu_()
    return result.permute(0, 3, 1, 2)


def _even_share(total: int, most: int) -> int:
    """The largest part when `total` is cut into as few parts of at most `most` as possible, all about equal."""
    return -(-total // -(-total // most))


def _elements(rows: int, tiles_x: int, m: int, channels: Sequence[int], channels_out: int) -> int:
    """Room that a block of `rows` rows of tiles needs in all."""
    p = m + 2
    tiles = rows * tiles_x
    at_points = p * p * tiles * sum(channels)
    line = (m * tiles_x + 2) * max(channels)
    before = rows * p * line + (p + 1) * rows * line + p * tiles * max(channels)
    after = (m * p + m * m) * tiles * channels_out
    return at_points + max(before, after)


def _input_transform(
    images: Sequence[Tensor],
    relus: Sequence[bool],
    block: tuple[slice, slice],
    tiles_x: int,
    m: int,
    scratch: Scratch,
) -> Tensor:
    """Shapes: (B, H, W, C_i) of each -> (tiles of the block, (m+2)^2, sum of C_i)."""
    some, tile_rows = block
    count, rows, p = some.stop - some.start, tile_rows.stop - tile_rows.start, m + 2
    result = scratch.take(count, rows, tiles_x, p, p, sum(x.shape[-1] for x in images))
    mark, channel = scratch.mark(), 0
    for x, relu in zip(images, relus, strict=True):
        H, W, C = x.shape[1:]
        scratch.release(mark)
        padded = scratch.take(count, m * rows + 2, m * tiles_x + 2, C)
        top = m * tile_rows.start - 1
        low, high = max(top, 0), min(top + m * rows + 2, H)
        inner = padded[:, low - top : high - top, 1 : W + 1]
        padded[:, : low - top] = 0
        padded[:, high - top :] = 0
        padded[:, :, 0] = 0
        padded[:, :, W + 1 :] = 0
        if relu:
            torch.clamp_min(x[some, low:high], 0, out=inner)
        else:
            inner.copy_(x[some, low:high])
        vertical = scratch.take(p, count, rows, m * tiles_x + 2, C)
        lines = [padded[:, k : k + m * (rows - 1) + 1 : m] for k in range(p)]
        _to_points(lines, list(vertical), scratch)
        columns = [vertical[..., k : k + m * (tiles_x - 1) + 1 : m, :] for k in range(p)]
        part = result[..., channel : channel + C]
        _to_points(columns, list(part.permute(4, 3, 0, 1, 2, 5)), scratch)
        channel += C
    scratch.release(mark)
    return result.view(count * rows * tiles_x, p * p, channel)


def _output_transform(products: Tensor, y: Tensor, tiles_x: int, m: int, scratch: Scratch, *, accumulate: bool) -> None:
    """Write, or add, to y what the products amount to; overwrites them.

    Shapes: products (tiles, (m+2)^2, O), y (count, up to m rows, W, O).
    """
    count, height, width, O = y.shape  # noqa: E741
    p, rows = m + 2, -(-height // m)
    vertical = scratch.take(m, len(products), p, O)
    _from_points(list(products.unflatten(1, (p, p)).unbind(1)), list(vertical))
    whole = (height, width) == (m * rows, m * tiles_x) and not accumulate
    pixels = y if whole else scratch.take(count, m * rows, m * tiles_x, O)
    split = pixels.view(count, rows, m, tiles_x, m, O).permute(4, 2, 0, 1, 3, 5)  # (m across, m down, ...)
    _from_points(list(vertical.view(m, count, rows, tiles_x, p, O).unbind(4)), list(split))
    if accumulate:
        y += pixels[:, :height, :width]
    elif not whole:
        y.copy_(pixels[:, :height, :width])


def _to_points(d: Sequence[Tensor], out: Sequence[Tensor], scratch: Scratch) -> None:
    """Transform inputs along one axis: m+2 tensors to m+2 tensors, in the order 0, 1, -1, 2, -2, ..., infinity.

    Row by row these are the polynomials that vanish at all points but one. They are even or odd up to a factor of
    x + p, so that p and -p share two half sums.
    """
    pairs = _PAIRS[len(d) - 2]
    mark = scratch.mark()
    half = scratch.take(*out[0].shape)
    for i, point in enumerate(pairs):
        coefficients = _vanishing_at(pairs[:i] + pairs[i + 1 :])
        _weighted_sum(coefficients, d[2::2], half)
        plus, minus = out[1 + 2 * i], out[2 + 2 * i]
        _weighted_sum(coefficients, d[1:-2:2], minus)
        torch.add(half, minus, alpha=point, out=plus)
        torch.sub(half, minus, alpha=point, out=minus)
    coefficients = _vanishing_at(pairs)
    _weighted_sum(coefficients, d[0::2], out[0])
    _weighted_sum(coefficients, d[1::2], out[-1])
    scratch.release(mark)


def _from_points(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """Transform products along one axis: m+2 tensors, overwritten, to m."""
    pairs = _PAIRS[len(out)]
    sums, differences = m[1:-1:2], m[2:-1:2]
    for plus, minus in zip(sums, differences, strict=True):
        plus += minus
        torch.sub(plus, minus, alpha=2, out=minus)  # plus - minus of before
    for k, y in enumerate(out):
        terms = [*(differences if k % 2 else sums)]
        coefficients = [p**k for p in pairs]
        if k == 0:
            terms, coefficients = [m[0], *terms], [1.0, *coefficients]
        if k == len(out) - 1:
            terms, coefficients = [m[-1], *terms], [1.0, *coefficients]
        _weighted_sum(coefficients, terms, y)


def _vanishing_at(pairs: Sequence[float]) -> list[float]:
    """Coefficients of the product of (x^2 - p^2), lowest first, in powers of x^2."""
    coefficients = [1.0]
    for p in pairs:
        shifted = [0.0, *coefficients]
        coefficients = [a - p * p * b for a, b in zip(shifted, [*coefficients, 0.0], strict=True)]
    return coefficients


def _weighted_sum(coefficients: Sequence[float], terms: Sequence[Tensor], out: Tensor) -> None:
    """Sum into out; one coefficient at least is 1. Each `add` is a pass over memory, so none is spent on scaling."""
    order = sorted(range(len(terms)), key=lambda i: coefficients[i] != 1)
    first, *rest = order
    if not rest:
        out.copy_(terms[first])
        return
    torch.add(terms[first], terms[rest[0]], alpha=coefficients[rest[0]], out=out)
    for i in rest[1:]:
        out.add_(terms[i], alpha=coefficients[i])
