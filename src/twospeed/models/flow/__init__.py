"""Flow networks for label propagation: the light one, and FlowNetS."""
