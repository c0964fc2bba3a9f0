"""Convolutions and products by oneDNN's kernels, with the sum and the ReLU that follow: for networks prepared to run.

torch's own operators leave products in single precision, and 1x1 convolutions on one thread, to MKL. On AMD
processors with AVX-512 that reaches under half of what oneDNN does. And a ReLU by itself is one more pass over memory.

These are the operators of torch's compiler. They are tried before they are trusted, and bfloat16 shape by shape
(`ops.bf16`). Without them, for other devices and dtypes, and where an ONNX graph is traced, torch's own run. No
autograd.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twospeed.ops.bf16 import CheckedConvolutions, convolution_is_right

Activation = Literal["none", "relu", "relu6"]

_POST: dict[Activation, tuple[str, list[float]]] = {
    "none": ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, 6.0]),
}  # fmt: skip
_LARGE = 1 << 16  # numbers in a weight, from which on bringing it into order takes long


class Orders:
    """A tensor in the library's own orders, by what they depend on. The last few are kept; no one writes to them."""

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._kept: dict[Hashable, Tensor] = {}

    def __call__(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the order for a shape, and for the number of threads; made where it is not known."""
        key = (key, torch.get_num_threads())
        if (known := self._kept.get(key)) is not None:
            return known
        while len(self._kept) >= self._most:
            self._kept.pop(next(iter(self._kept)), None)
        made = self._kept[key] = make()
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Orders:
        copied = Orders(self._most)
        copied._kept = dict(self._kept)
        return copied


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    *,
    activation: Activation = "none",
    add_to: Tensor | None = None,
    orders: Orders | None = None,
) -> Tensor:
    """Convolve an image or a volume, add, and rectify.

    Shapes: (B, C, *size), weight (O, C / groups, *kernel), bias (O,) -> (B, O, *size'), channels last in memory where
    x is; bfloat16 where autocast says so. add_to: of the result's shape and layout, summed before the activation; the
    result overwrites it, unless autocast changes its dtype. orders: of this weight, which must not change: large ones
    are not brought into the library's order each time then.
    """
    where = (list(padding), list(stride), list(dilation), groups)
    on_cpu = x.device.type == "cpu"
    dtype = weight.dtype
    if on_cpu and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x = x.to(dtype)
        bias, add_to = (None if value is None else value.to(dtype) for value in (bias, add_to))
    if x.dtype == dtype and _suits(x, weight) and _is_right(x, weight, where):
        if orders is not None and weight.dim() == 4 and weight.numel() >= _LARGE:
            weight = orders((x.shape, dtype), lambda: _reordered(weight.to(dtype), *where, x.shape))
        else:
            weight = weight.to(dtype)
        kind, scalars = _POST[activation]
        if add_to is None:
            y: Tensor = torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *where, kind, scalars, "")
            return y
        relu = "relu" if activation == "relu" else None  # the operator with a sum has no other one
        y = torch.ops.mkldnn._convolution_pointwise_.binary(add_to, x, weight, bias, *where, "add", 1.0, relu, [], None)
        return y.clamp_(0, 6) if activation == "relu6" else y
    convolution = F.conv3d if x.dim() == 5 else F.conv2d
    with CheckedConvolutions() if on_cpu and x.dtype == torch.bfloat16 else nullcontext():
        y = convolution(x, weight.to(dtype), bias, list(stride), list(padding), list(dilation), groups)
    if add_to is not None:
        y = add_to.add_(y)
    return y if activation == "none" else y.relu_() if activation == "relu" else F.relu6(y, inplace=True)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x weight^T + bias, in single precision where all three are. Shapes: (M, K), (N, K), (N,) -> (M, N).

    Differentiable; the fast way is for tensors that are not learned, and a weight that is contiguous.
    """
    if x.dtype == weight.dtype == torch.float32 and _suits(x, weight) and weight.is_contiguous():
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
        return y
    if _learns(x, weight, bias) or len({x.dtype, weight.dtype, bias.dtype}) > 1:
        return torch.addmm(bias, x, weight.mT)
    return torch.addmm(bias, x, weight.mT, out=x.new_empty(len(x), len(weight)))  # autocast leaves these alone


def packed(weights: Tensor, rows: int) -> Tensor:
    """Bring the second matrices of `grouped_product` into the library's own order.

    It depends on the rows of the first ones, and on the number of threads; with another order it is slow, not wrong.
    Shapes: weights (G, C, O), of float32 on a CPU -> opaque.
    """
    groups, channels, outputs = weights.shape
    kernels = weights.mT.reshape(groups * outputs, channels, 1, 1)
    return _reordered(kernels, [0, 0], [1, 1], [1, 1], groups, [1, groups * channels, rows, 1])


def grouped_product(x: Tensor, packed_weights: Tensor) -> Tensor:
    """Multiply G pairs of matrices, side by side in memory: a 1x1 convolution of G groups.

    Shapes: x (N, G, C), contiguous; `packed` weights (G, C, O) -> (N, G, O).
    """
    N, G = x.shape[:2]
    image = x.view(1, N, 1, -1).permute(0, 3, 1, 2)  # (1, G C, N, 1)
    y = torch.ops.mkldnn._convolution_pointwise.default(
        image, packed_weights, None, [0, 0], [1, 1], [1, 1], G, "none", [], ""
    )
    result: Tensor = y.permute(0, 2, 3, 1).reshape(N, G, -1)
    return result


def packs(x: Tensor) -> bool:
    """Return whether `grouped_product` works here, with tensors like this one."""
    return x.dtype == torch.float32 and _suits(x)


def _reordered(weight: Tensor, *where_and_size: Any) -> Tensor:
    order: Tensor = torch.ops.mkldnn._reorder_convolution_weight.default(weight, *where_and_size)
    return order


def _suits(*tensors: Tensor) -> bool:
    x = tensors[0]
    return (
        x.device.type == "cpu"
        and works(x.dtype)
        and not _learns(*tensors)
        and not torch.onnx.is_in_onnx_export()  # a graph has no such operators
    )


def _learns(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _is_right(x: Tensor, weight: Tensor, where: tuple[list[int], list[int], list[int], int]) -> bool:
    """Return whether this machine computes the convolution rightly in bfloat16 (see `ops.bf16`)."""
    return x.dtype != torch.bfloat16 or convolution_is_right(fused_convolution, x, weight, where, {})


def fused_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *where: Any) -> Tensor:
    """Convolve without a sum or ReLU. where: padding, stride, dilation, groups."""
    y: Tensor = torch.ops.mkldnn._convolution_pointwise.default(x, weight, bias, *where, "none", [], "")
    return y


@functools.cache
def works(dtype: torch.dtype) -> bool:
    """Return whether this torch and CPU have these operators, and they compute what we expect of them.

    Tried once for each dtype, against plain float32: a strided 3x3 convolution with its sum and ReLU, a depthwise one
    with ReLU6; in float32 a product with a bias, and grouped ones.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            pairs = [*_trials(dtype), *(_trials_of_products() if dtype == torch.float32 else ())]
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):  # not public: other versions may differ
            return False
    near = 1e-4 if dtype == torch.float32 else 0.03
    return all(
        found.shape == right.shape and float((found.float() - right).abs().max()) < near * float(right.abs().max())
        for found, right in pairs
    )


def _trials(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 16, 9, 9, generator=draw), torch.randn(32, 16, 3, 3, generator=draw)
    bias, start = torch.randn(32, generator=draw), torch.randn(2, 32, 5, 5, generator=draw)
    plain = F.conv2d(x, weight, bias, stride=2, padding=1)
    deep = F.conv2d(x, weight[:16, :1], None, padding=1, groups=16).clamp(0, 6)
    x, weight, bias, start_last = (
        value.to(dtype).contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value.to(dtype)
        for value in (x, weight, bias, start)
    )
    where = ([1, 1], [2, 2], [1, 1], 1)
    fused = torch.ops.mkldnn._convolution_pointwise.default
    rectified = fused(x, weight, bias, *where, "relu", [], "")
    depthwise = fused(x, weight[:16, :1], None, [1, 1], [1, 1], [1, 1], 16, "hardtanh", [0.0, 6.0], "")
    summed = torch.ops.mkldnn._convolution_pointwise_.binary(
        start_last, x, weight, bias, *where, "add", 1.0, "relu", [], None
    )
    return [
        (rectified, plain.relu()),
        (depthwise, deep),
        (summed, (plain + start).relu()),
        (start_last, summed.float()),
    ]


def _trials_of_products() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    x, weights = torch.randn(21, 4, 40, generator=draw), torch.randn(4, 40, 24, generator=draw)
    one, bias = weights[0].T.contiguous(), torch.randn(24, generator=draw)
    product = torch.ops.mkldnn._linear_pointwise.default(x[:, 0].contiguous(), one, bias, "none", [], "")
    grouped = grouped_product(x, packed(weights, len(x)))
    return [
        (product, torch.addmm(bias, x[:, 0], one.T)),
        (grouped, torch.bmm(x.transpose(0, 1), weights).transpose(0, 1)),
    ]
