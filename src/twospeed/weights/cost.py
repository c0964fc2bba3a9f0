"""What a model costs: parameters and multiply-adds, counted on the meta device, where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from twospeed.weights.catalog import find
from twospeed.weights.load import create_model


@dataclass(frozen=True)
class Cost:
    """parameters: of the whole network. gmacs: multiply-adds of `what`, in units of 1e9.

    Convention: a multiply-add is one; convolutions, linear layers and matrix products count, normalisation, activation,
    pooling and resampling do not.
    """

    parameters: int
    gmacs: float
    what: str


def cost_of(name: str) -> Cost:
    """Count one model as its paper runs it: a clip for classify and detect, a 480p frame for track."""
    entry = find(name)
    with torch.device("meta"), torch.inference_mode():
        model = create_model(name)
        parameters = sum(p.numel() for p in model.parameters())
        with FlopCounterMode(display=False) as counter:
            if entry.task == "track":
                frame = torch.empty(1, 3, 480, 864)
                features = model.encode_key(frame)
                value = model.encode_value(frame, features.f16, torch.empty(1, 1, 480, 864))
                model.decode(value, features)
                what = "one 480x854 frame and object: key, value and decoder (the memory read is apart)"
            else:
                pre = entry.preprocessing
                side, frames = pre.crop or 256, pre.frames or 32
                boxes = [[torch.empty(1, 4)]] if entry.task == "detect" else []
                model(torch.empty(1, 3, frames, side, side), *boxes)
                what = f"one view of {frames} x {side} x {side}" + (" with one box" if boxes else "")
    return Cost(parameters, counter.get_total_flops() / 2e9, what)
