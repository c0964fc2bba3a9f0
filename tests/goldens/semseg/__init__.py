"""How the inputs and weights of these cases are made, as each case.json tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tests.goldens import seeded


def canvas(rule: Mapping[str, Any]) -> torch.Tensor:
    """Frames cut from one drawn canvas at the rule's offsets: float32 (T, 3, H, W)."""
    height, width = rule["H"] + rule["pad"], rule["W"] + rule["pad"]
    block = rule["block"]
    coarse = seeded.array(rule["name"] + "/coarse", (3, height // block, width // block))
    fine = seeded.array(rule["name"] + "/fine", (3, height, width))
    drawn = np.float32(rule["a"]) * coarse.repeat(block, 1).repeat(block, 2) + np.float32(rule["b"]) * fine
    return torch.from_numpy(np.stack([drawn[:, y : y + rule["H"], x : x + rule["W"]] for y, x in rule["offsets_yx"]]))


def score_map(name: str, shape: tuple[int, int, int]) -> torch.Tensor:
    """Blocky class scores: float32 (1, C, H, W)."""
    C, H, W = shape
    coarse = seeded.array(name + "/coarse", (C, H // 8, W // 8))
    fine = seeded.array(name + "/fine", (C, H, W))
    return torch.from_numpy(coarse.repeat(8, 1).repeat(8, 2) + np.float32(0.1) * fine)[None]


def weights(
    shapes: Mapping[str, Any], fill: Mapping[str, Any], constants: Mapping[str, Any] | None = None
) -> dict[str, torch.Tensor]:
    """A state dict in the authors' names; delay kernels come from their rule."""
    state = {name: torch.from_numpy(value) for name, value in seeded.state_dict(shapes, **fill).items()}
    for name, value in (constants or {}).items():
        state[name] = ideal_delays() if isinstance(value, str) else torch.tensor(value).reshape(shapes[name])
    return state


def ideal_delays() -> torch.Tensor:
    """The 3x3 delays in the authors' shape, laid out by hand: float32 (9, 1, 1, 3, 3)."""
    filters = torch.zeros(9, 1, 1, 3, 3)
    for index, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)]):
        filters[index, 0, 0, row, column] = 1
    return filters


def relative_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    """max |a - b| / max |b|, the cases' measure."""
    found = actual.detach().double().numpy().reshape(expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())
