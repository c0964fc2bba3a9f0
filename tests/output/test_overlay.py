"""What is drawn on frames, at every size, without touching the frames themselves."""

import numpy as np
import pytest

from twospeed.errors import InputError
from twospeed.output.overlay import draw_boxes, draw_caption, draw_classes, draw_legend, draw_masks
from twospeed.output.palette import class_colours, object_colours
from twospeed.output.text import fitted, put_text, text_coverage, text_height


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)


@pytest.fixture
def labels():
    drawn = np.zeros((120, 160), np.uint8)
    drawn[20:80, 30:90] = 2
    drawn[60:, 60:] = 5
    return drawn


def test_masks_are_blended_and_the_rest_is_left(image, labels):
    before = image.copy()
    drawn = draw_masks(image, labels, alpha=0.25, contours=False)
    expected = np.where(labels[..., None] > 0, 0.75 * image + 0.25 * object_colours()[labels], image)
    np.testing.assert_allclose(drawn, expected, atol=0.51)
    np.testing.assert_array_equal(image, before)
    assert drawn.dtype == np.uint8


def test_contours_are_the_plain_colour_on_the_inside(image, labels):
    drawn = draw_masks(image, labels, alpha=0.5)
    for label, inside, outside in ((2, (20, 50), (19, 50)), (2, (50, 30), (50, 29)), (5, (60, 120), (59, 120))):
        assert drawn[inside].tolist() == object_colours()[label].tolist()
        assert drawn[outside].tolist() == image[outside].tolist()
    assert drawn[119, 159].tolist() != object_colours()[5].tolist()  # an object that leaves the image has no edge there
    assert drawn[65, 60].tolist() == object_colours()[5].tolist()  # where two meet, both are outlined
    assert drawn[65, 59].tolist() == object_colours()[2].tolist()


@pytest.mark.parametrize("alpha", [0, 1])
def test_extremes_of_alpha(image, labels, alpha):
    drawn = draw_masks(image, labels, alpha=alpha, contours=False)
    expected = np.where(labels[..., None] > 0, object_colours()[labels], image) if alpha else image
    np.testing.assert_array_equal(drawn, expected)


def test_no_object_nothing_drawn(image):
    np.testing.assert_array_equal(draw_masks(image, np.zeros((120, 160), np.uint8)), image)


def test_own_colours_and_all_labels(image):
    labels = np.arange(120 * 160, dtype=np.int64).reshape(120, 160).astype(np.uint8)
    table = np.random.default_rng(1).integers(0, 256, (256, 3), np.uint8)
    drawn = draw_masks(image, labels, alpha=1, contours=False, colours=table)
    np.testing.assert_array_equal(drawn, np.where(labels[..., None] > 0, table[labels], image))


def test_views_can_be_drawn_on(image, labels):
    flipped = draw_masks(image[:, ::-1], labels[:, ::-1], contours=False)
    np.testing.assert_array_equal(flipped[:, ::-1], draw_masks(image, labels, contours=False))


@pytest.mark.parametrize("count", [1, 19, 256])
def test_classes_tint_everything_but_void(image, count):
    labels = np.random.default_rng(1).integers(0, 256, (120, 160), np.uint8)
    colours = class_colours(count)
    drawn = draw_classes(image, labels, colours, alpha=1)
    known = labels < count
    np.testing.assert_array_equal(drawn[known], colours[labels[known]])
    np.testing.assert_array_equal(drawn[~known], image[~known])


def test_boxes(image):
    drawn = draw_boxes(image, np.array([[20, 40, 100, 100]]), ["run 0.9"], [(0, 200, 250)])
    assert drawn[70, 20].tolist() == [0, 200, 250]
    assert drawn[100, 60].tolist() == [0, 200, 250]
    np.testing.assert_array_equal(drawn[50:90, 30:90], image[50:90, 30:90])
    assert not np.array_equal(drawn[25:38, 20:60], image[25:38, 20:60])  # its text stands above it
    np.testing.assert_array_equal(draw_boxes(image, np.zeros((0, 4))), image)


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [np.nan, 0, np.inf, 10], [150, 110, 155, 119], [90, 90, 10, 10]])
def test_boxes_anywhere(image, box):
    drawn = draw_boxes(image, np.array([box]), [["one line", "a second, rather long line of text, cut at the border"]])
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)


def test_texts_of_people_beside_each_other_do_not_cover_each_other():
    image = np.full((240, 320, 3), 90, np.uint8)
    boxes, colours = np.array([[4, 60, 90, 200], [30, 64, 120, 210]]), [(200, 0, 0), (0, 0, 200)]
    texts = [["person 1", "walk 0.93"], ["person 2", "stand 0.88"]]
    first, second = (draw_boxes(image, boxes[[i]], texts[i : i + 1], colours[i : i + 1]) for i in (0, 1))
    both = draw_boxes(image, boxes, texts, colours)
    plates = [(one != image).any(axis=2) for one in (first, second)]
    assert (plates[0] & plates[1])[:60].any()  # alone they would stand in the same place
    assert np.array_equal(both[20:56, 4:60][plates[0][20:56, 4:60]], first[20:56, 4:60][plates[0][20:56, 4:60]])
    assert (both[..., 2] > 150).sum() > 600  # the other plate is there too


@pytest.mark.parametrize("height", [1, 24, 240, 480, 2160])
def test_everything_fits_every_size(height):
    image = np.full((height, height * 16 // 9 or 1, 3), 90, np.uint8)
    drawn = draw_boxes(image, np.array([[0.1, 0.1, 0.6, 0.9]]) * height, ["person 0.98"])
    drawn = draw_caption(drawn, ["frame 12", "ein längerer Satz — mit Umlauten: äöü " * 9])
    drawn = draw_legend(drawn, [f"class {i}" for i in range(300)], np.zeros((300, 3), np.uint8))
    drawn = draw_masks(drawn, np.ones(drawn.shape[:2], np.uint8))
    assert drawn.shape[0] == image.shape[0]


def test_text_grows_with_the_image():
    sizes = [text_height(np.zeros((h, 2 * h, 3), np.uint8)) for h in (120, 240, 480, 1080, 2160)]
    assert sizes == [11, 11, 17, 39, 77]
    assert text_coverage("gjÄ", 20).shape[0] == text_coverage("-", 20).shape[0]


def test_no_letter_is_cut_off():
    def rows_with_ink(text):
        return np.flatnonzero(text_coverage(text, 40).any(axis=1))

    height = text_coverage("x", 40).shape[0]
    assert 0 < rows_with_ink("Ä")[0] < rows_with_ink("A")[0]
    assert rows_with_ink("a")[-1] < rows_with_ink("g")[-1] < height - 1


def test_long_text_is_cut_with_an_ellipsis():
    assert fitted("short", 20, 500) == "short"
    cut = fitted("a text that is far too long for this", 20, 120)
    assert cut.endswith("…")
    assert cut[:-1] == "a text that is far too long for this"[: len(cut) - 1]
    assert text_coverage(cut, 20).shape[1] <= 121
    assert fitted("anything", 20, 3) == ""
    assert fitted("two\nlines\t", 20, 500) == "two lines"


@pytest.mark.parametrize("corner", [(-9, -9), (155, 115), (0, 300), (-400, 4)])
def test_text_is_cut_off_at_the_border(image, corner):
    drawn = image.copy()
    put_text(drawn, "hello", *corner, 20, (255, 255, 255))
    assert drawn.shape == image.shape


def test_caption_can_be_read(image):
    drawn = draw_caption(np.full_like(image, 128), "0.98")
    band = drawn[:12, :20].astype(int)
    assert band.max() > 200
    assert band.min() < 70
    np.testing.assert_array_equal(draw_caption(image, []), image)
    np.testing.assert_array_equal(draw_caption(image, ["", " "]), image)


def test_legend_shows_its_colours():
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    image = np.full((240, 320, 3), 90, np.uint8)
    drawn = draw_legend(image, ["road", "car", "sky"], colours)
    for colour in colours:
        assert (drawn == colour).all(axis=2).sum() > 20
    np.testing.assert_array_equal(drawn[:, :320], image)  # outside of the image
    assert drawn.shape == draw_legend(image, ["road", "car", "sky"], colours, {1}).shape
    assert drawn.shape[1] % 2 == 0
    np.testing.assert_array_equal(draw_legend(drawn, [], []), drawn)


def test_bad_input(image, labels):
    with pytest.raises(InputError, match=r"labels are uint8 of the image's size \(120, 160\)"):
        draw_masks(image, labels[:50])
    with pytest.raises(InputError, match="int64"):
        draw_classes(image, labels.astype(np.int64), class_colours(3))
    with pytest.raises(InputError, match="an image is uint8"):
        draw_caption(image[..., 0], "text")
    with pytest.raises(InputError, match="alpha"):
        draw_masks(image, labels, alpha=1.5)
    with pytest.raises(InputError, match="257"):
        draw_classes(image, labels, np.zeros((257, 3)))
    with pytest.raises(InputError, match="2 boxes with 1 texts"):
        draw_boxes(image, np.zeros((2, 4)), ["one"])
    with pytest.raises(InputError, match="2 names with 1 colours"):
        draw_legend(image, ["a", "b"], [(0, 0, 0)])
