"""bfloat16 with a self-test: convolutions that this machine computes wrongly are computed in single precision.

On processors with AVX-512 BF16, oneDNN's weight gradient of a 3D convolution is wrong where the padded kernel is longer
than the clip (kernel 5 in time over 4 frames, 3 over 2): some taps hold uninitialised memory, so a training ends in
`nan`. Some AMX processors have wrong strided convolutions (pytorch#169688). Which shapes are wrong differs between
processors and torch versions; so every shape is compared with single precision once per process, when it is first used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

logger = logging.getLogger(__name__)

CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
)  # fmt: skip

LARGEST_ERROR = 0.03  # of the largest value; rounding to bfloat16 alone gives 0.004

_verdicts: dict[Any, bool] = {}


@contextmanager
def autocast(device: torch.device | str, dtype: torch.dtype = torch.bfloat16, network: object = None) -> Iterator[None]:
    """Compute convolutions and products in `dtype`, as torch.autocast does; with float32 do nothing.

    On a CPU, bfloat16 convolutions are checked (see the module). network: what will run; where it says
    `checks_convolutions`, all of them go through `ops.onednn`, and torch's other calls do not pay for the check.
    """
    kind = torch.device(device).type
    with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
        if kind == "cpu" and dtype == torch.bfloat16 and not getattr(network, "checks_convolutions", False):
            with CheckedConvolutions():
                yield
        else:
            yield


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions that multiply bfloat16, and computes a matrix product right with them.

    Elsewhere bfloat16 is converted first, and slower than float32. Convolutions are checked one by one (`autocast`).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # what torch itself asks, without a public name
    return any(getattr(torch.cpu, name, bool)() for name in asked) and _product_is_right()


@cache
def _product_is_right() -> bool:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).bfloat16() for shape in ((70, 130), (130, 90)))
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        right = a.float() @ b.float()
        return bool(((a @ b).float() - right).abs().max() <= LARGEST_ERROR * right.abs().max())


class CheckedConvolutions(TorchFunctionMode):
    """A context in which bfloat16 convolutions on the CPU that fail the self-test run in single precision.

    For networks that are bfloat16 themselves; `autocast` includes it.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in CONVOLUTIONS:
            return func(*args, **kwargs)
        names = ("input", "weight", "bias")
        tensors = {**dict(zip(names, args, strict=False)), **{key: kwargs[key] for key in names if key in kwargs}}
        half = torch.is_autocast_enabled("cpu") or tensors["input"].dtype == torch.bfloat16
        if not half or tensors["input"].device.type != "cpu":
            return func(*args, **kwargs)
        named = {key: value for key, value in kwargs.items() if key not in names}
        if convolution_is_right(func, tensors["input"], tensors["weight"], args[3:], named):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            single = [value.float() if isinstance(value, Tensor) else value for value in args]
            others = {key: value.float() if isinstance(value, Tensor) else value for key, value in kwargs.items()}
            return func(*single, **others).to(torch.bfloat16)


def convolution_is_right(
    func: Callable[..., Tensor], x: Tensor, weight: Tensor, options: Sequence[Any], named: Mapping[str, Any]
) -> bool:
    """Return whether this machine computes a convolution of these shapes in bfloat16 as in float32, up to rounding.

    Gradients are compared, too, where they are wanted now. Neither tensor's values are used, no global random state
    changes; the answer is kept for the process.
    """
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    question = (func, tuple(x.shape), x.stride(), tuple(weight.shape), weight.stride(), str((options, named)), learns)
    if question not in _verdicts:
        with torch.inference_mode(False), torch.set_grad_enabled(learns), torch.autocast("cpu", enabled=False):
            error = _largest_error(func, x, weight, options, named, learns)
        _verdicts[question] = error <= LARGEST_ERROR  # False for nan
        if not _verdicts[question]:
            logger.warning(
                "bfloat16 %s of %s with a kernel of %s is wrong on this machine (error %.3g of the largest value); "
                "it is computed in single precision",
                getattr(func, "__name__", "convolution"), tuple(x.shape), tuple(weight.shape), error,
            )  # fmt: skip
    return _verdicts[question]


def _largest_error(
    func: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    options: Sequence[Any],
    named: Mapping[str, Any],
    learns: bool,
) -> float:
    generator = torch.Generator().manual_seed(0)

    def drawn(like: Tensor) -> Tensor:
        values = torch.randn(like.shape, generator=generator).bfloat16()
        if 0 in like.stride():  # an expanded tensor cannot be written to
            return values
        return torch.empty_strided(like.shape, like.stride(), dtype=torch.bfloat16).copy_(values)

    half = [drawn(x).requires_grad_(learns), drawn(weight).requires_grad_(learns)]
    single = [value.detach().float().requires_grad_(learns) for value in half]
    # What is not written must not look right by luck: memory of the sizes in use holds nan before
    padded = weight[0, 0].numel() * (-weight.shape[0] // 16 * -16) * (-weight.shape[1] // 16 * -16)
    poison = [torch.full((size,), float("nan")) for size in (weight.numel(), padded, 2 * padded, x.numel())]
    del poison
    results: list[tuple[Tensor, ...]] = []
    slope: Tensor | None = None
    for inputs in (single, half):
        y = func(*inputs, None, *options, **named)
        found: tuple[Tensor, ...] = (y.detach(),)
        if learns:
            slope = torch.randn(y.shape, generator=generator).bfloat16() if slope is None else slope
            found += torch.autograd.grad(y, inputs, slope.to(y.dtype))
        results.append(found)
    errors = [
        (wrong.float() - right).abs().max() / right.abs().max().clamp(min=1e-30)
        for right, wrong in zip(*results, strict=True)
        if right.numel()
    ]
    return float(torch.stack(errors).max()) if errors else 0.0  # max passes nan on
