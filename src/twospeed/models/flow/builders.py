"""Flow networks by the names of the `flow` option."""

from __future__ import annotations

from typing import Literal

from twospeed.models.flow.network import FlowLight, FlowNetS

FlowName = Literal["light", "flownet2s"]


def flow_network(name: FlowName = "light") -> FlowLight | FlowNetS:
    """Build a flow network: "light" (GSVNet's own) or "flownet2s". Raises ValueError for another name."""
    if name == "light":
        return FlowLight()
    if name == "flownet2s":
        return FlowNetS()
    raise ValueError(f"flow is {name!r}; choose 'light' or 'flownet2s'")
