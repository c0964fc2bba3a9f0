"""What is written of a video stores colours as the video does."""

from __future__ import annotations

import av
import numpy as np
import pytest

from twospeed.results import ColourTags
from twospeed.video.reader import open_video
from twospeed.video.writer import VideoWriter

PATCHES = ((200, 60, 30), (30, 180, 60), (40, 50, 210), (240, 230, 220))


def picture():
    image = np.zeros((64, 96, 3), np.uint8)
    for place, colour in enumerate(PATCHES):
        image[:, 24 * place : 24 * place + 24] = colour
    return image


def stored(path):
    """Tags and planes as they are in the file."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frame = next(container.decode(video=0))
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        planes = frame.to_ndarray().astype(int) if "420p" in frame.format.name else None
        return tuple(map(int, tags)), planes


@pytest.mark.parametrize(
    "tags",
    [
        ColourTags(),
        ColourTags(5, 5, 6, False),  # PAL
        ColourTags(6, 6, 6, True),  # NTSC's matrix, full range, as many phones and webcams store it
        ColourTags(9, 9, 14, False),  # BT.2020 without HDR
        ColourTags(2, 2, 2, False),  # nothing is stated
    ],
)
def test_written_again_a_video_is_stored_as_it_was(tmp_path, tags):
    with VideoWriter(tmp_path / "source.mp4", 25, quality=0, colours=tags) as writer:
        for _ in range(3):
            writer.write(picture())
    with open_video(tmp_path / "source.mp4") as reader:
        assert reader.info.colours == tags
        images = [frame.image for frame in reader]
    assert np.abs(images[0].astype(int) - picture()).max() <= 8  # 4:2:0 at the borders of patches, and rounding
    for name, alpha in (("copy.mp4", None), ("copy.mov", "straight"), ("copy.webm", "straight")):
        with VideoWriter(tmp_path / name, 25, quality=0, alpha=alpha, colours=tags) as writer:
            for image in images:
                writer.write(image if alpha is None else np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]))
        stated = stored(tmp_path / name)[0]
        matrix = tags.matrix if name != "copy.mov" else {5: 6, 2: 6}.get(tags.matrix, tags.matrix)  # BT.601 in any case
        assert stated[:3] == (matrix, tags.primaries, tags.transfer), name
        assert stated[3] == (2 if tags.full_range and name != "copy.mov" else 1) or tags.matrix == 2, name
    kept, planes = stored(tmp_path / "copy.mp4")
    before, original = stored(tmp_path / "source.mp4")
    assert kept == before
    assert np.abs(planes - original).max() <= 3
