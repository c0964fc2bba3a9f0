"""The clip that several command-line tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import SIZE
from twospeed.data.clips.synthetic import render_clip
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.writer import VideoWriter


@pytest.fixture(scope="session")
def scene(tmp_path_factory) -> Path:
    """A folder with a clip of 12 frames, its frames as images, and the masks of frames 0 and 6."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "frames").mkdir()
    with VideoWriter(folder / "clip.mp4", 10, quality=10) as writer:
        for index, (image, labels) in enumerate(render_clip(2, frames=12, height=SIZE[0], width=SIZE[1], objects=2)):
            writer.write(image)
            Image.fromarray(image).save(folder / "frames" / f"{index:05d}.jpg", quality=95)
            if index in (0, 6):
                write_indexed_png(folder / f"mask{index}.png", labels)
    return folder
