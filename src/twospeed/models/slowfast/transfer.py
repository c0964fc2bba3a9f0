"""Start training from other weights: of images, of one pathway, of another data set; everything accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from twospeed.errors import CheckpointError
from twospeed.models.slowfast.convert import to_ours
from twospeed.models.slowfast.network import SlowFast


@dataclass(frozen=True)
class Transfer:
    """What became of every entry. copied: as they were. inflated: from one frame to several. widened: Slow channels
    copied, fused ones left. kept: entries of the network that stay as they were initialised, with the reason. unused:
    entries of the weights that the network does not have.
    """

    copied: tuple[str, ...]
    inflated: tuple[str, ...]
    widened: tuple[str, ...]
    kept: Mapping[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.copied)} entries copied, {len(self.inflated)} inflated over time, {len(self.widened)} widened, "
            f"{len(self.kept)} kept as initialised, {len(self.unused)} of the weights unused"
        )


def inflate(weight: Tensor, temporal_kernel: int) -> Tensor:
    """Spread a kernel of one frame, (out, in, H, W) or (out, in, 1, H, W), over several: the same response to a
    still.

    The weight is repeated along time and divided by the number of frames (Carreira 2017; as PySlowFast does).
    """
    if weight.ndim == 4:
        weight = weight.unsqueeze(2)
    return weight.repeat(1, 1, temporal_kernel, 1, 1) / temporal_kernel


def initialise_from(network: SlowFast, state: Mapping[str, Tensor], *, widen: bool = False) -> Transfer:
    """Fill what fits of `network`, in place, with weights in any naming that `convert.to_ours` knows.

    Image ResNets and one-frame kernels are inflated. A Slow-only network fills the Slow pathway of SlowFast but for
    the first block of each stage, whose input also holds fused channels: like the authors' loader this leaves it as
    initialised, unless widen=True copies the Slow channels' part. A head for other classes is left as initialised.
    Raises CheckpointError when no convolution fits.
    """
    ours = to_ours(state)
    own = network.state_dict()
    copied, inflated, widened = [], [], []
    kept: dict[str, str] = {}
    with torch.no_grad():
        for name, target in own.items():
            if name.endswith("num_batches_tracked"):
                continue
            value = ours.get(name)
            if value is None:
                kept[name] = "not in the weights"
            elif value.shape == target.shape:
                target.copy_(value)
                copied.append(name)
            elif _one_frame_of(value, target):
                target.copy_(inflate(value, target.shape[2]))
                inflated.append(name)
            elif widen and _fewer_inputs(value, target):
                target[:, : value.shape[1]].copy_(value)
                widened.append(name)
            else:
                kept[name] = f"{tuple(value.shape)} in the weights, {tuple(target.shape)} here"
    unused = tuple(name for name in ours if name not in own and not name.endswith("num_batches_tracked"))
    if not any(name.endswith("conv.weight") or ".branch2." in name for name in (*copied, *inflated)):
        raise CheckpointError(
            f"none of these {len(ours)} entries fits the network; is it a ResNet or SlowFast checkpoint? "
            f"Its first entry is {next(iter(ours), 'missing')!r}"
        )
    return Transfer(tuple(copied), tuple(inflated), tuple(widened), kept, unused)


def _one_frame_of(value: Tensor, target: Tensor) -> bool:
    return value.ndim == target.ndim == 5 and (
        value.shape[2] == 1 and value.shape[:2] + value.shape[3:] == target.shape[:2] + target.shape[3:]
    )


def _fewer_inputs(value: Tensor, target: Tensor) -> bool:
    return value.ndim == target.ndim == 5 and (
        value.shape[1] < target.shape[1] and value.shape[:1] + value.shape[2:] == target.shape[:1] + target.shape[2:]
    )
