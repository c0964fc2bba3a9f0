"""The example of a network of one's own runs as it stands, and finds the red square."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_network.py"


def test_it_runs_in_each_of_the_four_jobs():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects, classes, best, people = map(ast.literal_eval, done.stdout.splitlines())
    assert objects[0]["box_xywh"] == [48, 32, 32, 32], "the square moved 46 pixels, cells are 16 wide"
    assert [found["name"] for found in classes] == ["other", "red"]
    assert classes[1]["share"] == 32 * 32 / (96 * 128)
    assert best[0][0] == "red"
    assert people[0]["actions"][0]["label"] == "red"
