"""The cases by kind: each module adds its own to `CASES`."""

from __future__ import annotations

import importlib

from tests.hostile.case import CASES, Case

KINDS = (
    "videos", "masks", "options", "outputs", "resuming", "weights", "boxes", "evaluations", "trainings", "others",
    "ranges", "prompts", "papers", "exporting", "library", "texts", "annotations", "tables",
)  # fmt: skip


def cases_by_kind() -> dict[str, list[Case]]:
    """Return all cases, by kind."""
    found = {}
    for kind in KINDS:
        CASES.clear()
        importlib.import_module(f"tests.hostile.cases.{kind}").add_cases()
        found[kind] = list(CASES)
    return found
