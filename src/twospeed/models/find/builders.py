"""Find networks by name."""

from __future__ import annotations

from twospeed.models.find.network import FindNetwork


def find_nano() -> FindNetwork:
    """Build the network that finds objects without a mark, whose weights ship with twospeed."""
    return FindNetwork()
