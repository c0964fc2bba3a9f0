"""Comparisons on generated and real data, with their pages in docs/: run from the repository's root.

python -m experiments.NAME --help
"""
