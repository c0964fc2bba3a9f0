"""STCN's memory: the one that all families share, by the name it has here."""

from twospeed.models.memory import MemoryBank, _top_k, read_memory

__all__ = ["MemoryBank", "_top_k", "read_memory"]
