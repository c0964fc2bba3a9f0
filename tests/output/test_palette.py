"""Colours that can be told apart, and text that can be read on them."""

import numpy as np
import pytest

from twospeed.output.palette import class_colours, distinct_colours, object_colours, text_colour
from twospeed.video.indexed_png import davis_palette


def closest(colours):
    gaps = np.linalg.norm(colours[:, None].astype(float) - colours[None], axis=2)
    return gaps[~np.eye(len(colours), dtype=bool)].min()


def test_objects_differ_and_begin_as_in_davis():
    colours = object_colours()
    assert colours.shape == (256, 3)
    assert colours[0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(colours[1:8] > 0, davis_palette()[1:8] > 0)
    assert closest(colours[1:33]) > 25
    assert len(np.unique(colours[1:], axis=0)) > 240


def test_classes_differ_and_do_not_move():
    assert closest(class_colours(20)) > 40
    assert closest(class_colours(80)) > 15
    np.testing.assert_array_equal(class_colours(5), class_colours(80)[:5])
    assert class_colours(0).shape == (0, 3)


@pytest.mark.parametrize("table", [object_colours, davis_palette, lambda: class_colours(7)])
def test_tables_cannot_be_changed(table):
    with pytest.raises(ValueError, match="read-only"):
        table()[0] = 1


def test_text_contrasts_with_its_background():
    def luminance(colour):
        return ((np.array(colour) / 255) ** 2.2) @ [0.2126, 0.7152, 0.0722]

    for background in class_colours(80).tolist():
        light, dark = sorted((luminance(text_colour(tuple(background))), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.4  # WCAG asks 4.5 of small text


def test_classes_of_the_same_hue_get_colours_that_are_told_apart():
    tree, pedestrian, road, sky = (128, 128, 0), (64, 64, 0), (128, 64, 128), (128, 128, 128)
    colours = distinct_colours((tree, pedestrian, road, sky))
    assert [tuple(c) for c in colours[[0, 2, 3]].tolist()] == [tree, road, sky]
    chroma = colours.astype(float) - colours.mean(axis=1, keepdims=True)
    cosine = chroma[0] @ chroma[1] / np.linalg.norm(chroma[0]) / np.linalg.norm(chroma[1])
    assert cosine < 0.9  # another hue
