"""The networks: tensors in, tensors out. `optimise.optimise` makes any of them fast for inference."""
