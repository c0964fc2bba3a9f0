"""Mattes: soft edges without seams, colours without background, and EXR that other software reads."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from twospeed.errors import InputError
from twospeed.output.censor import (
    blur_objects,
    fitted_background,
    pixelate_objects,
    read_background,
    replace_background,
)
from twospeed.output.mask_outputs import MaskOutputSettings
from twospeed.output.matte import alpha_of, foreground, matte, premultiplied, soft_alpha, write_exr
from twospeed.results import ObjectMasks

HEIGHT, WIDTH = 240, 320


@pytest.fixture(scope="module")
def disc():
    """A bright disc before black, with an anti-aliased edge: image, masks with probabilities, true coverage."""
    large = np.zeros((HEIGHT * 8, WIDTH * 8), np.uint8)
    cv2.circle(large, (160 * 8, 120 * 8), 70 * 8, 255, -1)
    cover = cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    image = np.round(cover[..., None] * (240, 200, 60)).astype(np.uint8)
    wide = cv2.GaussianBlur(cover, (0, 0), 1.5)
    labels = (cover > 0.5).astype(np.uint8) * 4
    return image, ObjectMasks(labels, np.stack([1 - wide, wide]), (4,), confidence=np.ones(1, np.float32)), cover


def test_alpha_is_soft_at_the_edge_and_exact_elsewhere(disc):
    _, masks, cover = disc
    alpha = alpha_of(masks)
    far = cv2.distanceTransform(np.uint8(cover > 0), cv2.DIST_L2, 5) > 4
    assert (alpha[far] == 1).all()
    assert (alpha[cv2.dilate(np.uint8(cover > 0), np.ones((9, 9))) == 0] == 0).all()
    steps = np.abs(np.diff(alpha[120]))
    assert 0.1 < steps.max() < 0.6  # no jump
    assert abs(alpha.sum() - cover.sum()) < 0.01 * cover.sum()  # neither eroded nor grown


def test_edges_of_given_masks_are_smoothed_as_they_have_no_probabilities(disc):
    _, masks, _ = disc
    inside = masks.labels > 0
    given = inside.astype(np.float32)
    np.testing.assert_array_equal(soft_alpha(inside, given), soft_alpha(inside))
    steps = np.abs(np.diff(soft_alpha(inside, given)[120]))
    assert 0.1 < steps.max() < 0.85  # no jump
    # Beside an object with probabilities: each edge as it is
    both = np.hstack([inside, inside])
    alpha = soft_alpha(both, np.hstack([given, masks.probabilities[1]]))
    np.testing.assert_allclose(alpha[:, :WIDTH], soft_alpha(inside), atol=1e-6)
    np.testing.assert_allclose(alpha[:, WIDTH:], alpha_of(masks), atol=1e-6)


def test_hazy_probabilities_leave_neither_holes_nor_haze():
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[60:180, 80:240] = True
    alpha = soft_alpha(inside, np.where(inside, 0.6, 0.4).astype(np.float32))
    assert (alpha[70:170, 90:230] == 1).all()
    assert (alpha[:50] == 0).all()
    assert (soft_alpha(inside)[70:170, 90:230] == 1).all()
    touching = np.zeros((HEIGHT, WIDTH), bool)
    touching[:, :100] = True
    assert (soft_alpha(touching)[:, :90] == 1).all()  # the image's border is no edge


def test_no_dark_halo_before_white(disc):
    image, masks, _ = disc
    white = replace_background(image, masks, np.full((1, 1, 3), 255, np.uint8))
    # Before white, nothing may be darker than the disc itself; pixels of the black background would be
    assert (white.astype(int) >= np.array((240, 200, 60)) - 25).all()
    hard = np.where((masks.labels > 0)[..., None], image, 255)
    assert (hard.astype(int) < np.array((240, 200, 60)) - 60).any()  # as a cut without a matte shows


def test_straight_colours_go_on_outside_of_the_edge(disc):
    image, masks, _ = disc
    alpha = alpha_of(masks)
    outside = (alpha == 0) & (cv2.dilate((alpha > 0).view(np.uint8), np.ones((5, 5), np.uint8)) > 0)
    colours = foreground(image, alpha)[outside].astype(int)
    assert np.abs(colours - (240, 200, 60)).max() < 30


def test_exr_is_read_by_ffmpeg(disc, tmp_path):
    image, masks, _ = disc
    rgba = matte(image, masks)
    for premultiply in (False, True):
        write_exr(tmp_path / "a.exr", rgba, premultiply=premultiply)
        with av.open(str(tmp_path / "a.exr")) as container:
            frame = next(container.decode(video=0))
        assert frame.format.name == "gbrapf16le"
        green, blue, red, alpha = (
            np.frombuffer(p, np.float16).reshape(HEIGHT, -1)[:, :WIDTH].astype(np.float32) for p in frame.planes
        )
        np.testing.assert_allclose(alpha, rgba[..., 3] / 255, atol=1e-3)
        linear = ((rgba[..., :3] / 255 + 0.055) / 1.055) ** 2.4
        linear = np.where(rgba[..., :3] <= 10, rgba[..., :3] / 255 / 12.92, linear)
        wanted = linear * (rgba[..., 3:] / 255 if premultiply else 1)
        np.testing.assert_allclose(np.dstack([red, green, blue]), wanted, atol=1e-3)


def test_premultiplied_colours_never_exceed_alpha(disc):
    image, masks, _ = disc
    rgba = premultiplied(matte(image, masks))
    assert (rgba[..., :3] <= rgba[..., 3:]).all()


@pytest.mark.parametrize("hide", [blur_objects, pixelate_objects])
def test_hidden_objects_have_no_detail_left_and_the_rest_is_untouched(hide):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[60:180, 80:240] = 9
    masks = ObjectMasks(labels, np.zeros((0, 1, 1), np.float32), (9,), confidence=np.ones(1, np.float32))
    hidden = hide(image, masks)
    assert (
        np.abs(np.diff(hidden[70:170, 90:230].astype(int), axis=1)).mean()
        < 0.1 * np.abs(np.diff(image.astype(int), axis=1)).mean()
    )
    np.testing.assert_array_equal(hidden[:50], image[:50])
    assert (hidden[59, 100:200] != image[59, 100:200]).any()  # a line around it, too


def test_backgrounds_cover_the_image(tmp_path):
    assert read_background("#00b140").tolist() == [[[0, 177, 64]]]
    cv2.imwrite(str(tmp_path / "sky.png"), np.full((10, 40, 3), (255, 0, 0), np.uint8))
    assert fitted_background(read_background(str(tmp_path / "sky.png")), 30, 20).shape == (30, 20, 3)
    assert read_background(str(tmp_path / "sky.png"))[0, 0].tolist() == [0, 0, 255]
    (tmp_path / "cut.png").write_bytes((tmp_path / "sky.png").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cut\.png: the image is damaged or cut off"):
        read_background(str(tmp_path / "cut.png"))
    for text in ("no such thing", "rgb(300,0,0)"):
        with pytest.raises(InputError, match="neither a colour"):
            MaskOutputSettings(remove_background=text)
    assert MaskOutputSettings(exports=("coco", "cvat", "coco")).exports == ("coco", "cvat")
    with pytest.raises(InputError, match="none is asked for"):
        MaskOutputSettings(matte_layers=True)
