"""Objects that a tracker loses are found again, where the finder is surer, and only what was marked."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed import InputError, Tracker, create_model
from twospeed.pipelines.find_frames import AROUND
from twospeed.pipelines.redetect import EVERY, Redetector
from twospeed.results import Frame

HEIGHT, WIDTH = 128, 192


def scene(t: int) -> tuple[np.ndarray, np.ndarray]:
    """A red and a green square that move over a grey ground: image, labels 1 and 2."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image += np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 1)).astype(np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (top, left) in enumerate([(16, 10 + 3 * t), (76, 120 - 3 * t)], start=1):
        labels[top : top + 40, left : left + 48] = number
    image[labels == 1] = (230, 30, 30)
    image[labels == 2] = (30, 230, 30)
    return image, labels


class Coloured(nn.Module):
    """Finds what has a colour: red, or red and green. maps: how many it drew."""

    def __init__(self, channels: tuple[int, ...] = (0,)) -> None:
        super().__init__()
        self.channels, self.maps = channels, 0

    def primary_map(self, images: Tensor, motion: Tensor) -> Tensor:
        self.maps += 1
        distinct = (images - images.mean(1, keepdim=True))[:, self.channels].amax(1)
        return torch.sigmoid(F.avg_pool2d(60 * (distinct - 0.25), 2))


class Losing(nn.Module):
    """A tracker's network that loses the top of the image, half of the red square, without being sure of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = create_model("track_small")
        for name in ("similarity", "keys_per_object", "masks_as_given", "sees_last_frame"):
            setattr(self, name, getattr(self.inner, name))

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def decode(self, readout: Tensor, features: object) -> Tensor:
        logits = self.inner.decode(readout, features)
        logits[..., : 36 * logits.shape[-2] // HEIGHT, :] = -1.0
        return logits


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def followed(tracker: Tracker, frames: range, first: np.ndarray | None = None, **options: object) -> list[np.ndarray]:
    return [tracker.step(scene(t)[0], first if t == 0 else None, **(options if t == 0 else {})).labels for t in frames]


def losing(finder: nn.Module | None) -> Tracker:
    return Tracker(Losing(), size=None, finder=finder)


def test_a_lost_object_is_found_again():
    """Once the marked frame was looked at, the next remembered frame is whole, and so is the memory that it makes."""
    red = (scene(0)[1] == 1).astype(np.uint8)
    alone, helped = (followed(losing(finder), range(2 * EVERY + 1), red)[-1] for finder in (None, Coloured()))
    truth = scene(2 * EVERY)[1] == 1
    assert iou(alone == 1, truth) < 0.6
    assert iou(helped == 1, truth) > 0.9


def test_maps_are_drawn_beside_the_tracking_of_a_whole_video(monkeypatch, two_threads):
    """With frames looked at on another thread, results and maps are those of frame by frame."""

    def tracker() -> Tracker:
        made = Tracker("track_small", size=None, finder=Coloured(), device="cpu")
        decode = made.model.decode

        def loses(readout, features):
            logits = decode(readout, features)
            logits[..., : 36 * logits.shape[-2] // HEIGHT, :] = -1.0
            return logits

        monkeypatch.setattr(made.model, "decode", loses)
        return made

    one, whole = tracker(), tracker()
    red = (scene(0)[1] == 1).astype(np.uint8)
    expected = followed(one, range(3 * EVERY + 2), red)
    found = [r.labels for _, r in whole.run([Frame(t, t / 10, scene(t)[0]) for t in range(3 * EVERY + 2)], red)]
    assert min(iou(a == 1, b == 1) for a, b in zip(found, expected, strict=True)) > 0.98
    assert iou(found[3 * EVERY] == 1, scene(3 * EVERY)[1] == 1) > 0.9
    assert whole.finder.maps == one.finder.maps >= 3


def test_objects_that_the_finder_does_not_mean_are_left_alone():
    green = (scene(0)[1] == 2).astype(np.uint8)
    finder = Coloured()
    alone, helped = (followed(losing(one), range(3 * EVERY), green) for one in (None, finder))
    np.testing.assert_array_equal(alone, helped)
    assert finder.maps == 1  # of the marked frame; no other is needed


def test_a_map_of_several_objects_is_divided_as_the_tracker_divides_them():
    both = scene(0)[1]
    result = followed(losing(Coloured((0, 1))), range(2 * EVERY + 1), both)[-1]
    truth = scene(2 * EVERY)[1]
    assert iou(result > 0, truth > 0) > 0.9
    assert iou(result == 2, truth == 2) > 0.6


def test_an_object_that_is_gone_stays_gone():
    tracker = losing(Coloured((0, 1)))
    followed(tracker, range(AROUND + 2), scene(0)[1])
    assert 1 in tracker.step(scene(AROUND + 2)[0]).labels
    for t in range(AROUND + 3, AROUND + 3 + 2 * EVERY):
        labels = tracker.step(scene(t)[0], gone=[1] if t == AROUND + 3 else []).labels
        assert 1 not in labels


def test_no_object_is_made_up_where_none_was_followed():
    redetector = Redetector(Coloured(), torch.device("cpu"))
    for t in range(2 * EVERY):
        redetector.see(redetector.scaled(scene(t)[0]))
        if t == 0:
            redetector.mark(scene(0)[1] == 1)
    nothing = np.full((HEIGHT, WIDTH), 0.01, np.float32)
    draw = redetector.drawing()
    assert draw is not None
    assert redetector.correct(nothing, draw) is None
    some = nothing.copy()
    some[20:30, 40:50] = 0.6
    assert redetector.correct(some, draw) is not None
    assert redetector.drawing() is None  # a map of every fifth frame at most


def test_outlines_stay_as_the_tracker_draws_them():
    """A map whose object is one pixel larger all around changes nothing."""
    redetector = Redetector(Coloured(), torch.device("cpu"))
    for t in range(2 * EVERY):
        redetector.see(redetector.scaled(scene(t)[0]))
        if t == 0:
            redetector.mark(scene(0)[1] == 1)
    smaller = cv2.erode((scene(2 * EVERY - 1)[1] == 1).astype(np.uint8), np.ones((3, 3), np.uint8))
    draw = redetector.drawing()
    assert draw is not None
    assert redetector.correct(np.where(smaller, 0.7, 0.2).astype(np.float32), draw) is None


def test_what_is_marked_before_a_cut_says_nothing_of_what_comes_after():
    finder = Coloured()
    tracker = losing(finder)
    followed(tracker, range(AROUND + 2), (scene(0)[1] == 1).astype(np.uint8))
    before = finder.maps
    for t in range(2 * EVERY):
        tracker.step(255 - scene(t)[0][::-1].copy())
    assert finder.maps == before


@pytest.mark.parametrize("stop", [3, AROUND + 1, 2 * EVERY + 2])
def test_a_saved_tracker_continues_exactly(stop: int, tmp_path: Path):
    """The marked frame not looked at yet, looked at, and after a correction."""
    red = (scene(0)[1] == 1).astype(np.uint8)
    whole = followed(losing(Coloured()), range(4 * EVERY), red)
    first = losing(Coloured())
    parts = followed(first, range(stop), red)
    first.save_state(tmp_path / "state.safetensors")
    second = losing(Coloured())
    second.load_state(tmp_path / "state.safetensors")
    parts += followed(second, range(stop, 4 * EVERY))
    np.testing.assert_array_equal(parts, whole)
    with pytest.raises(InputError, match="finder"):
        losing(None).load_state(tmp_path / "state.safetensors")


def test_a_replayed_video_continues_with_the_same_agreement(tmp_path: Path):
    red = (scene(0)[1] == 1).astype(np.uint8)
    whole = followed(losing(Coloured()), range(3 * EVERY), red)
    tracker = losing(Coloured())
    parts = [tracker.replay(scene(t)[0], whole[t], red if t == 0 else None).labels for t in range(AROUND + 2)]
    parts += followed(tracker, range(AROUND + 2, 3 * EVERY))
    assert iou(parts[2 * EVERY] == 1, whole[2 * EVERY] == 1) > 0.95


def test_the_default_is_the_networks_own():
    small, nano = Tracker("track_small"), Tracker("track_tiny")
    assert small.needs_every_frame
    assert not nano.needs_every_frame
    assert small.finder is not None
    assert Tracker("track_small", finder=None).finder is None
    assert Tracker("track_tiny", finder="find_nano").finder is not None
    with pytest.raises(InputError, match="track_tiny"):
        Tracker("track_small", finder="track_tiny")
