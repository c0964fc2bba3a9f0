"""Overlays of actions: every frame gets the result that is nearest in time, whatever waits."""

from __future__ import annotations

import numpy as np
import pytest

from twospeed.output import action_overlay
from twospeed.output.action_overlay import Caption, TimedOverlay, draw_nearest
from twospeed.results import Frame


def drawn(monkeypatch, frames, captions, most_bytes=None):
    """Return the caption of each frame, where each caption comes behind the frame at `known_s`."""
    if most_bytes is not None:
        monkeypatch.setattr(action_overlay, "MOST_BYTES", most_bytes)
    seen = []
    monkeypatch.setattr(action_overlay, "draw_caption", lambda image, lines: seen.append(lines[0]) or image)
    written = []
    captions = list(captions)
    with TimedOverlay(lambda image, time_s: written.append(time_s), draw_nearest) as overlay:
        for i in range(frames):
            overlay.add_frame(Frame(i, i / 10, np.full((16, 16, 3), i, np.uint8)))
            while captions and captions[0][0] <= i / 10:
                overlay.add_result(Caption(*captions.pop(0)[1:]))
    assert written == [i / 10 for i in range(frames)]
    return seen


def test_every_frame_has_the_nearest_caption(monkeypatch):
    # windows of a second around 0.5, 1.5 and 2.5 s, each known at its end
    captions = [(0.9, 0.5, ["a"]), (1.9, 1.5, ["b"]), (2.9, 2.5, ["c"])]
    assert "".join(drawn(monkeypatch, 30, captions)) == 11 * "a" + 10 * "b" + 9 * "c"


def test_frames_that_wait_too_long_have_the_caption_before(monkeypatch):
    captions = [(0.4, 0.2, ["a"]), (9.9, 9.5, ["b"])]
    found = "".join(drawn(monkeypatch, 100, captions, most_bytes=20_000))
    assert found == found.count("a") * "a" + found.count("b") * "b"
    waiting = found.count("b")
    assert 5 <= waiting < 49  # as many as the memory holds, fewer than half of those between


@pytest.mark.parametrize("frames", [1, 3])
def test_without_a_caption_frames_stay_as_they_are(monkeypatch, frames):
    assert drawn(monkeypatch, frames, []) == []
