"""What a SlowFast network costs: parameters and multiply-adds of one view.

Convention: a multiply-add is one multiplication with its addition; convolutions, linear layers and the matrix
products of non-local blocks count, normalisation, activations, pooling and additions do not (counting batch norm too,
as some tools do, adds 0.4 to 0.7 %). The papers' "FLOPs" are these multiply-adds.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from twospeed.errors import InputError
from twospeed.models.slowfast import builders
from twospeed.models.slowfast.network import SlowFast

CONVENTION = "multiply-adds of convolutions, linear layers and non-local products, one view of the given size"


class Cost(NamedTuple):
    """parameters: count. multiply_adds: of one view; 1e9 of them are the "GFLOPs" of the papers."""

    parameters: int
    multiply_adds: int


def parameters_and_flops(name: str, size: int = 256, **options: Unpack[builders.Options]) -> Cost:
    """Return the cost of a network by its catalogue name for one view of size x size pixels; nothing is computed.

    options: as the builder takes them. Raises InputError for a name that this family does not have.
    """
    build = getattr(builders, name, None)
    if name.startswith("_") or not callable(build) or getattr(build, "__module__", "") != builders.__name__:
        raise InputError(f"{name!r} is not a SlowFast network")
    with torch.device("meta"):
        network: SlowFast = build(**options)
        clip = torch.empty(1, 3, network.frames, size, size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for module in list(network.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):  # not counted, and half of the time that counting takes
                setattr(module, child_name, nn.Identity())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(clip)
    return Cost(parameters, counter.get_total_flops() // 2)
