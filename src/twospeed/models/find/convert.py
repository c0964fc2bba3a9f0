"""Weights of find networks: our own names only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as it is: there are no foreign files."""
    return dict(state)


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that a state determines: none."""
    return {}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "find_nano" when the keys are its own."""
    return "find_nano" if "fast.start.weight" in state and "slow.stem.weight" in state else None
