"""Data set x pipeline x metric -> report."""
