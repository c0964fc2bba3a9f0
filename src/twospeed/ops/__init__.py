"""Pure tensor functions: no state, no files, no device choice."""
