"""`benchmarks/gpu.py` on a machine without a graphics card."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_without_a_card_nothing_is_measured_and_that_is_said():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no CUDA device here: nothing was measured\n"), done.stderr


def test_an_unknown_part_is_named():
    done = subprocess.run([sys.executable, SCRIPT, "--only", "jbos"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no part is called 'jbos'" in done.stderr
