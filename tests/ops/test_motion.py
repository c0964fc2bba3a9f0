"""Motion against the camera: what pans or zooms as a whole is still, what moves on its own is not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from twospeed.ops.motion import OFFSETS, PLANES, camera_motion, motion_planes

SIZE = (96, 160)


def texture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def scene(t: float, *, pan: float = 2.0, speed: float = 0.0) -> np.ndarray:
    """A textured ground that pans, and a textured disc that moves on its own (speed in pixels per frame)."""
    ground = texture(SIZE[0] + 80, SIZE[1] + 160)
    x = 80 + pan * t
    image = cv2.warpAffine(ground, np.array([[1, 0, -x], [0, 1, -40.0]]), SIZE[::-1])
    centre = (round(80 + speed * t), 48)
    disc = np.zeros(SIZE, np.uint8)
    cv2.circle(disc, centre, 18, 1, -1)
    own = cv2.warpAffine(255 - ground[::-1], np.array([[1, 0, speed * t - 60], [0, 1, -30.0]]), SIZE[::-1])
    return np.where(disc > 0, own, image) if speed else image


def magnitude(planes: np.ndarray) -> np.ndarray:
    near = planes.reshape(len(OFFSETS), PLANES, *SIZE)[OFFSETS.index(1)]
    return np.hypot(near[0], near[1])


def test_a_panning_camera_moves_nothing():
    planes = motion_planes(scene(0), [scene(offset) for offset in OFFSETS])
    assert planes.shape == (len(OFFSETS) * PLANES, *SIZE)
    assert planes.dtype == np.float32
    assert np.median(magnitude(planes)) < 0.3


def test_what_moves_against_the_camera_stands_out():
    planes = motion_planes(scene(0, speed=-3), [scene(offset, speed=-3) for offset in OFFSETS])
    inside = np.zeros(SIZE, np.uint8)
    cv2.circle(inside, (80, 48), 12, 1, -1)
    outside = cv2.circle(np.ones(SIZE, np.uint8), (80, 48), 36, 0, -1)
    strength = magnitude(planes)
    assert strength[inside > 0].mean() > 5 * strength[outside > 0].mean()
    # To the left, whichever side in time it was measured on
    along = planes.reshape(len(OFFSETS), PLANES, *SIZE)[:, 0]
    assert (along[:, inside > 0].mean(1) < -0.5).all()


def test_a_missing_frame_is_replaced_by_the_one_on_the_other_side():
    frames = [scene(offset, speed=-3) for offset in OFFSETS]
    whole = motion_planes(scene(0, speed=-3), frames).reshape(len(OFFSETS), PLANES, *SIZE)
    at_the_start = motion_planes(scene(0, speed=-3), [None, None, *frames[2:]]).reshape(whole.shape)
    assert np.array_equal(at_the_start[2:], whole[2:])
    assert np.array_equal(at_the_start[1], whole[2])
    assert np.array_equal(at_the_start[0], whole[3])
    assert not motion_planes(scene(0), [None] * len(OFFSETS)).any()


@pytest.mark.parametrize("zoom", [1.0, 1.02])
def test_the_camera_is_recovered_beside_an_object(zoom):
    rows, columns = np.mgrid[0:90, 0:150].astype(np.float32)
    flow = np.stack([(zoom - 1) * columns + 1.5, (zoom - 1) * rows - 0.5], -1)
    truth = np.array([[zoom - 1, 0, 1.5], [0, zoom - 1, -0.5]])
    flow[30:60, 50:90] += 6
    assert np.allclose(camera_motion(flow), truth, atol=0.01)
