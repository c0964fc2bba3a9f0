"""The inputs of the cases, built once into a temporary folder ($HOSTILE_DIR, else `hostile` in the temporary one)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ROOT = Path(os.environ.get("HOSTILE_DIR", str(Path(tempfile.gettempdir()) / "hostile")))
ASSETS = ROOT / "assets"
VIDEOS, MASKS, CHECKPOINTS, TABLES, FRAMES, SETS, RUNS = (
    ASSETS / name for name in ("video", "mask", "ckpt", "table", "frames", "set", "run")
)
GOOD, MASK = VIDEOS / "clip.mp4", MASKS / "96x64.png"


def build_inputs() -> None:
    """Build all inputs; a minute."""
    from tests.hostile.inputs.checkpoints import checkpoints
    from tests.hostile.inputs.datasets import datasets
    from tests.hostile.inputs.frames import folders
    from tests.hostile.inputs.masks import mask_files
    from tests.hostile.inputs.runs import runs
    from tests.hostile.inputs.tables import tables
    from tests.hostile.inputs.videos import videos

    for build in (videos, folders, mask_files, checkpoints, tables, datasets, runs):
        build()
    (ASSETS / "done").touch()
