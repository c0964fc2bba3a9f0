"""The tables of the five papers, with their numbers and ours beside them: a data file for each paper."""
