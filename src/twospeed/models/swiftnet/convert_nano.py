"""Weights of the small SwiftNet, which come in our names only."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state as it is."""
    return dict(state)


def options_from(state: Mapping[str, Tensor], name: str) -> dict[str, object]:
    """Constructor options that the shapes of a state determine."""
    classifier = state.get("classifier.weight")
    return {} if classifier is None else {"num_classes": classifier.shape[0]}


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Return "swiftnet_nano" when the keys are its own."""
    return "swiftnet_nano" if {"refine.conv.weight", "classifier.weight"} <= set(state) else None
