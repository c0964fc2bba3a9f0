"""The cases in the test suite: a sample of every kind, and all of them with `-m hostile`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.cases import KINDS, cases_by_kind

ROOT = Path(__file__).parents[2]


def wrong(place: Path, *arguments: str, seconds: float) -> list[str]:
    """Run cases in a process of their own, which forks; return what is not ok."""
    report = place / "report.json"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile", "--json", str(report), *arguments],
        cwd=ROOT,
        env={**os.environ, "HOSTILE_DIR": str(place), "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        timeout=seconds,
    )
    content = json.loads(report.read_text())
    assert content["cases"], "no case was run"
    return [f"{row['verdict']}: {row['name']}: {row['why'] or row['lines']}" for row in content["wrong"]]


def test_names_are_given_once():
    names = [case.name for cases in cases_by_kind().values() for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sample_of_every_kind(hostile_place):
    assert wrong(hostile_place, "--sample", seconds=880) == []


@pytest.mark.hostile
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_every_case(hostile_place, kind):
    assert wrong(hostile_place, "--kind", kind, seconds=7200) == []
