"""Readers of published data sets in their official layouts: which files there are, and what they hold."""
