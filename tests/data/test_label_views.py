"""Views and drives of labelled images: labels go where pixels go, and what is asked for lies in the view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twospeed.data.clips.drives import Drives, cut_outs
from twospeed.errors import InputError
from twospeed.transforms.colour import recolour
from twospeed.transforms.labels import Focus
from twospeed.transforms.warp import draw_view

VOID = 11
BLOCK = 12  # pixels; classes come in blocks, so that interpolation leaves their middles alone


def blocks(height: int = 96, width: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels in blocks of 0..9, and an image that shows them: grey of 25 times the label."""
    coarse = np.random.default_rng(seed).integers(0, 10, (height // BLOCK, width // BLOCK)).astype(np.uint8)
    labels = coarse.repeat(BLOCK, 0).repeat(BLOCK, 1)
    return np.repeat(labels[..., None] * 25, 3, 2), labels


def agree(image: np.ndarray, labels: np.ndarray) -> float:
    """Share of labelled pixels whose grey is that of their label; the others are where blocks meet."""
    shown = labels != VOID
    return float((np.abs(image[..., 0].astype(int) - labels * 25)[shown] <= 12).mean())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), turn=st.sampled_from([0.0, 4.0]))
def test_labels_go_where_pixels_go(seed: int, turn: float) -> None:
    image, labels = blocks(seed=seed % 7)
    rng = np.random.default_rng(seed)
    view = draw_view(rng, labels.shape, (65, 89), scale=(0.7, 2.0), turn=turn)
    moved, classes = view.image(image), view.labels(labels, VOID)
    assert moved.shape == (65, 89, 3)
    assert classes.shape == (65, 89)
    assert set(np.unique(classes)) <= {*range(10), VOID}
    assert (classes != VOID).mean() > 0.4
    assert agree(moved, classes) > 0.8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), row=st.integers(0, 95), column=st.integers(0, 119))
def test_a_view_shows_what_it_is_drawn_around(seed: int, row: int, column: int) -> None:
    rng = np.random.default_rng(seed)
    view = draw_view(rng, (96, 120), (57, 73), scale=(1.0, 2.0), turn=0.0, aspect=0.0, focus=(row, column))
    x, y = view.matrix @ np.array([column, row, 1.0])
    assert -1 <= x <= 73
    assert -1 <= y <= 57


def test_focus_draws_classes_evenly_and_pixels_of_them() -> None:
    labels = np.zeros((2, 20, 30), np.uint8)
    labels[1, 4, 5] = 2  # one pixel of class 2 in 1200, none of class 1
    focus, rng = Focus(list(labels), 3), np.random.default_rng(0)
    drawn = [focus.draw(rng) for _ in range(200)]
    rare = [place for index, place in drawn if labels[index][place] == 2]
    assert 70 < len(rare) < 130
    assert set(rare) == {(4, 5)}


def test_recolouring_keeps_shape_and_changes_little() -> None:
    image, _ = blocks()
    changed = recolour(np.random.default_rng(0), image)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert 0 < np.abs(changed.astype(int) - image).mean() < 60


def test_views_and_drives_refuse_nonsense() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="no view"):
        draw_view(rng, (96, 120), (57, 73), scale=(2.0, 1.0))
    with pytest.raises(InputError, match="at least one"):
        Drives([], [], void=VOID, movers=(8,))


def test_cut_outs_are_whole_regions_of_their_class() -> None:
    labels = np.zeros((80, 100), np.uint8)
    labels[10:30, 20:45], labels[50:52, 60:62] = 8, 8  # the second is too small
    image = np.repeat(labels[..., None] * 25, 3, 2)
    (thing,) = cut_outs([image], [labels], (8,))
    assert thing.mask.shape == (20, 25)
    assert thing.mask.all()
    assert thing.label == 8
    assert (thing.image == 200).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_drives_move_and_keep_labels_on_their_pixels(seed: int) -> None:
    images, maps = zip(*(blocks(seed=n) for n in range(3)), strict=True)
    drives = Drives(images, maps, void=VOID, movers=())
    rng = np.random.default_rng(seed)
    # Colours change for a drive as a whole: compare each frame with the first by labels, not by grey
    film, classes = drives.draw(rng, (64, 88), 4)
    assert film.shape == (4, 64, 88, 3)
    assert classes.shape == (4, 64, 88)
    greys = [film[..., 0][classes == label] for label in np.unique(classes) if label != VOID]
    spread = np.mean([np.mean(np.abs(grey.astype(float) - np.median(grey)) < 20) for grey in greys if len(grey) > 300])
    assert spread > 0.7
    again, _ = drives.draw(np.random.default_rng(seed), (64, 88), 4)
    np.testing.assert_array_equal(film, again)


def test_a_pasted_object_moves_with_its_label() -> None:
    image, labels = np.zeros((96, 120, 3), np.uint8), np.zeros((96, 120), np.uint8)
    thing = labels.copy()
    thing[30:60, 40:80] = 8
    shown = np.repeat((thing > 0)[..., None] * np.uint8(255), 3, 2)
    drives = Drives([image, shown], [labels, thing], void=VOID, movers=(8,))
    for seed in range(20):
        film, classes = drives.draw(np.random.default_rng(seed), (64, 88), 3)
        car = classes == 8
        if car.sum() > 400:
            assert film[..., 0][car].mean() > film[..., 0][classes == 0].mean() + 60
            return
    pytest.fail("no object in twenty drives")
