"""Commands and trainings that are interrupted are finished by the next run, equal to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.interruptions import FAULTS, JOBS

ROOT = Path(__file__).parents[2]


def wrong(place: Path, *arguments: str, seconds: float) -> list[str]:
    report = place / "interruptions.json"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile.interruptions", "--json", str(report), *arguments],
        cwd=ROOT,
        env={**os.environ, "HOSTILE_DIR": str(place), "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.DEVNULL,
        timeout=seconds,
    )
    content = json.loads(report.read_text())
    assert content["interruptions"]
    return content["wrong"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_some_interruptions(hostile_place):
    assert (
        wrong(
            hostile_place, "--points", "1", "--jobs", "track,convert,train", "--faults", "SIGKILL,ENOSPC", seconds=880
        )
        == []
    )


@pytest.mark.hostile
@pytest.mark.timeout(0)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("job", JOBS)
def test_interruptions_of_every_command(hostile_place, job, fault):
    assert wrong(hostile_place, "--points", "12", "--jobs", job, "--faults", fault, seconds=7200) == []
