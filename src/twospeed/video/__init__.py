"""Pixels in and out: files, folders, cameras, indexed PNGs."""
