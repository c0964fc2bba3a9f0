"""Masks from clicks, boxes and masks to correct: `ClickNetwork`."""
