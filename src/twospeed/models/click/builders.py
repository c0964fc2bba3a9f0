"""Click networks by name."""

from __future__ import annotations

from twospeed.models.click.network import ClickNetwork


def click_nano() -> ClickNetwork:
    """Build the network behind points, boxes and corrections whose weights ship with twospeed."""
    return ClickNetwork()
