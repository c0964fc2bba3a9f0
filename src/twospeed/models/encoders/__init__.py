"""Image encoders that several families share."""
