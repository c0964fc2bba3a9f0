"""Batch normalisation as the papers train it: statistics of 8 clips, and exact ones before evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from twospeed.errors import InputError
from twospeed.training.distributed import total, world_size

T = TypeVar("T")


class GroupedClipsNorm(nn.BatchNorm3d):
    """Batch norm whose training statistics come from groups of `clips` clips, not the whole batch.

    A process with 64 clips then trains as 8 processes with 8 clips each. In eval mode, and in its parameters
    and their names, it is an ordinary BatchNorm3d. A last, smaller group is normalised by itself.
    """

    def __init__(self, channels: int, clips: int, *, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.clips = clips

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, T, H, W)."""
        if not self.training or len(x) <= self.clips:
            return super().forward(x)
        return torch.cat([super(GroupedClipsNorm, self).forward(group) for group in torch.split(x, self.clips)])


def group_batch_norm(model: nn.Module, clips: int) -> nn.Module:
    """Replace every BatchNorm3d of a model by one over groups of `clips` clips; returns the same model.

    Parameters and buffers are shared with the replaced layers, so weights and state dicts are unchanged.
    """
    if clips < 1:
        raise InputError(f"batch norm needs groups of at least 1 clip, got {clips}")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm3d:
                grouped = GroupedClipsNorm(child.num_features, clips, eps=child.eps, momentum=child.momentum)
                grouped._parameters, grouped._buffers = child._parameters, child._buffers
                grouped.train(child.training)
                setattr(parent, name, grouped)
    return model


@torch.no_grad()
def precise_bn(model: nn.Module, batches: Iterable[T], forward: Callable[[T], object] | None = None) -> int:
    """Replace running statistics of all batch-norm layers by exact ones over `batches`; returns their number.

    Training's moving average lags behind the weights; the papers re-estimate over some 200 batches before
    each evaluation. Layers normalise as in training meanwhile, everything else (dropout) is in eval mode.
    Mean and variance are those of all inputs together, over all processes; every rank must call this. Raises
    InputError when no batch came.

    forward: how to run one batch, default `model(batch)`.
    """
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    layers = [m for m in norms if m.running_mean is not None]
    modes = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    # Of each layer's inputs: the sum of each channel, of its squares, and how many values a channel has
    sums = {layer: layer.get_buffer("running_mean").new_zeros(2 * layer.num_features + 1).double() for layer in layers}

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        dims = [d for d in range(x.ndim) if d != 1]
        count = x.new_tensor([x.numel() // x.shape[1]])
        sums[layer] += torch.cat([x.sum(dims), x.square().sum(dims), count])  # type: ignore[index]

    handles = [layer.register_forward_pre_hook(collect) for layer in layers]
    seen = 0
    try:
        model.eval()
        for layer in layers:
            layer.train()
            layer.momentum = 0.0  # leave the running statistics alone until the end
        for batch in batches:
            (forward or model)(batch)
            seen += 1
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    if not layers:
        return seen
    device = next(iter(sums.values())).device
    if not total(torch.tensor(seen, device=device)):
        raise InputError("precise BN got no batch to estimate statistics from")
    for layer, kept in sums.items():
        values, squares, count = total(kept).split([layer.num_features, layer.num_features, 1])
        mean = values / count
        variance = (squares / count - mean.square()).clamp(min=0)
        unbiased = variance * count / (count - 1).clamp(min=1)  # as torch keeps it
        layer.get_buffer("running_mean").copy_(mean)
        layer.get_buffer("running_var").copy_(unbiased)
    return seen


@torch.no_grad()
def join_statistics(model: nn.Module) -> None:
    """Give all processes the batch-norm statistics of all of them; every rank must call this, alone it does nothing.

    While training each process follows its own share of the data. The joint variance counts the distance between the
    processes' means, too.
    """
    world = world_size()
    if world == 1:
        return
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            mean, variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
            joint = total(mean) / world
            variance.copy_(total(variance + (mean - joint).square()) / world)
            mean.copy_(joint)
