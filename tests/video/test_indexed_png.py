"""Masks as files: what DAVIS reads is written, and what people draw is understood or refused with a reason."""

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from twospeed.errors import InputError, MaskError, OutputError
from twospeed.video.indexed_png import davis_palette, read_label_map, write_indexed_png

PURE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 0], [0, 0, 255]], np.uint8)


@pytest.fixture
def labels():
    """Three objects, two of them touching, and a small fourth."""
    drawn = np.zeros((120, 200), np.uint8)
    cv2.circle(drawn, (70, 50), 30, 1, -1)
    cv2.ellipse(drawn, (110, 60), (40, 20), 30, 0, 360, 2, -1)
    cv2.rectangle(drawn, (150, 70), (185, 110), 3, -1)
    cv2.circle(drawn, (30, 100), 8, 4, -1)
    return drawn


def saved(path, image, **how):
    Image.fromarray(image).save(path, **how)
    return path


def smooth(image):
    return cv2.resize(
        cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC),
        image.shape[1::-1],
        interpolation=cv2.INTER_AREA,
    )


def test_palette_is_that_of_davis():
    palette = davis_palette()
    assert palette.shape == (256, 3)
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        5: (128, 0, 128),
        8: (64, 0, 0),
        21: (128, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(palette[index].tolist()) for index in known} == known
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_written_labels_come_back(tmp_path_factory, labels):
    path = tmp_path_factory.getbasetemp() / "any.png"
    write_indexed_png(path, labels)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), labels)
        np.testing.assert_array_equal(np.array(image.getpalette()).reshape(256, 3), davis_palette())


def test_eight_bits_whatever_the_labels(tmp_path):
    write_indexed_png(tmp_path / "few.png", np.eye(9, dtype=bool))
    assert (tmp_path / "few.png").read_bytes()[24:26] == b"\x08\x03"  # depth 8, colour type palette


def test_writing_what_is_no_label_map(tmp_path):
    for labels, words in (
        (np.zeros((2, 2, 3), np.uint8), "shape"),
        (np.zeros((2, 2), np.float32), "float32"),
        (np.array([[0, 256]]), r"0\.\.256"),
        (np.array([[-1, 1]]), r"-1\.\.1"),
        (np.zeros((0, 4), np.uint8), "shape"),
    ):
        with pytest.raises(InputError, match=words):
            write_indexed_png(tmp_path / "bad.png", labels)
    assert not list(tmp_path.iterdir())


def test_writing_where_one_cannot(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory"):
        write_indexed_png(tmp_path / "nowhere" / "a.png", np.ones((4, 4), np.uint8))
    write_indexed_png(tmp_path / "a.png", np.ones((4, 4), np.uint8))
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OutputError, match=r"b\.png is a folder"):
        write_indexed_png(tmp_path / "b.png", np.ones((4, 4), np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX systems can")
def test_full_disk_keeps_the_older_file(tmp_path):
    path = tmp_path / "a.png"
    write_indexed_png(path, np.ones((4, 4), np.uint8))
    before = path.read_bytes()
    script = (
        "import resource, signal, sys, numpy as np\nfrom twospeed.errors import OutputError\n"
        "from twospeed.video.indexed_png import write_indexed_png\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))\n"
        "try: write_indexed_png(sys.argv[1], np.random.default_rng(0).integers(0, 9, (99, 99)))\n"
        "except OutputError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "a.png (File too large); free space" in run.stdout
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_palette_indices_are_labels_whatever_the_colours(tmp_path, labels):
    image = Image.fromarray(labels * 3)
    image.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
    image.save(tmp_path / "own.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "own.png"), labels * 3)


@pytest.mark.parametrize("kind", ["L", "1", "RGB", "LA", "16 bits", "RGBA"])
def test_black_and_white_is_one_object(tmp_path, labels, kind):
    white = ((labels > 0) * 255).astype(np.uint8)
    image = (
        Image.fromarray(white.astype(np.uint16) * 257) if kind == "16 bits" else Image.fromarray(white).convert(kind)
    )
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "mask.png"), labels > 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("factor", [1, 38])
def test_flat_grey_values_are_labels(tmp_path, labels, dtype, factor):
    path = saved(tmp_path / "grey.png", (labels * factor).astype(dtype))
    np.testing.assert_array_equal(read_label_map(path), labels * factor)


def test_sixteen_bits_that_do_not_fit(tmp_path, labels):
    path = saved(tmp_path / "ids.png", labels.astype(np.uint16) * 1000)
    with pytest.raises(MaskError, match=r"ids\.png: holds 16-bit values 0\.\.4000, labels are 0\.\.255; renumber"):
        read_label_map(path)


def test_colours_become_labels(tmp_path, labels):
    np.testing.assert_array_equal(read_label_map(saved(tmp_path / "a.png", davis_palette()[labels])), labels)
    np.testing.assert_array_equal(read_label_map(saved(tmp_path / "b.png", PURE[labels])), labels)
    others = np.array([[0, 0, 0], [10, 200, 30], [250, 120, 10], [0, 0, 255], [90, 20, 90]], np.uint8)
    # Blue is 4 like its dark namesake; the rest in order of (red, green, blue): green, purple, orange.
    expected = np.array([0, 1, 3, 4, 2], np.uint8)[labels]
    np.testing.assert_array_equal(read_label_map(saved(tmp_path / "c.png", others[labels])), expected)


def test_transparency_is_background(tmp_path, labels):
    opaque = ((labels > 0) * 255).astype(np.uint8)
    paint = np.full((*labels.shape, 3), 77, np.uint8)
    coloured = np.where(labels[..., None] > 0, PURE[labels], paint)
    path = saved(tmp_path / "cut-out.png", np.dstack([coloured, opaque]))
    np.testing.assert_array_equal(read_label_map(path), labels)
    path = saved(tmp_path / "black.png", np.dstack([paint * 0, opaque]))
    np.testing.assert_array_equal(read_label_map(path), labels > 0)


@pytest.mark.parametrize("lossy", ["smoothed", "jpeg", "half size", "blurred", "palette"])
@pytest.mark.parametrize("kind", ["binary", "palette colours", "pure colours"])
def test_smoothed_masks_are_refused_or_snapped(tmp_path, labels, kind, lossy):
    big = cv2.resize(labels, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_NEAREST)
    flat = {
        "binary": ((big > 0) * 255).astype(np.uint8),
        "palette colours": davis_palette()[big],
        "pure colours": PURE[big],
    }[kind]
    if lossy == "jpeg":
        path = saved(tmp_path / "mask.jpg", flat, quality=85)
    elif lossy == "palette":
        Image.fromarray(smooth(flat)).quantize(64).save(tmp_path / "mask.png")
        path = tmp_path / "mask.png"
    elif lossy == "blurred":
        path = saved(tmp_path / "mask.png", cv2.GaussianBlur(flat, (0, 0), 2))
    elif lossy == "half size":
        path = saved(tmp_path / "mask.png", cv2.resize(flat, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))
        big = cv2.resize(labels, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_NEAREST)
    else:
        path = saved(tmp_path / "mask.png", smooth(flat))
    with pytest.raises(MaskError, match=r"mask\.\w+: \d+ (grey levels|colours|palette entries) found.*snap=True"):
        read_label_map(path)
    expected = (big > 0).astype(np.uint8) if kind == "binary" else big
    snapped = read_label_map(path, snap=True)
    assert set(np.unique(snapped)) == set(np.unique(expected))
    assert (snapped == expected).mean() > 0.99


def test_snap_leaves_flat_masks_alone(tmp_path, labels):
    thin = labels.copy()
    thin[5, 20:150] = 9  # one pixel wide
    for name, image in (("a.png", thin), ("b.png", davis_palette()[thin])):
        np.testing.assert_array_equal(read_label_map(saved(tmp_path / name, image), snap=True), thin)


def test_few_blends_are_still_blends(tmp_path):
    path = saved(
        tmp_path / "half.png",
        cv2.resize(np.kron(np.eye(2), np.ones((9, 9))) * 255.0, (9, 9), interpolation=cv2.INTER_AREA).astype(np.uint8),
    )
    with pytest.raises(MaskError, match="grey levels"):
        read_label_map(path)


def test_a_photograph_is_no_mask(tmp_path):
    photo = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8), (0, 0), 2)
    for image in (photo, photo[..., 0]):
        with pytest.raises(MaskError, match="found, more than a mask"):
            read_label_map(saved(tmp_path / "photo.png", np.ascontiguousarray(image)))


def test_other_refusals(tmp_path, labels):
    with pytest.raises(MaskError, match="no such file"):
        read_label_map(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(MaskError, match="is not an image"):
        read_label_map(tmp_path / "text.png")
    with pytest.raises(MaskError, match="not a regular file"):
        read_label_map(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-60])
    with pytest.raises(MaskError, match="cannot be read"):
        read_label_map(tmp_path / "cut.png")
    path = saved(tmp_path / "good.png", labels)
    with pytest.raises(MaskError, match="the mask is 200x120, its frame 854x480"):
        read_label_map(path, expect_size=(480, 854))
    assert read_label_map(path, expect_size=(120, 200)).any()
    nearly = read_label_map(path, expect_size=(121, 199))
    assert nearly.shape == (121, 199)
    assert (nearly[:120, :199] == labels[:, :199]).mean() > 0.98
    path = saved(tmp_path / "empty.png", labels * 0)
    with pytest.raises(MaskError, match="has no object"):
        read_label_map(path)
    assert not read_label_map(path, allow_empty=True).any()
    path = saved(tmp_path / "white.png", 255 - PURE[labels])
    with pytest.raises(MaskError, match="no black or transparent background"):
        read_label_map(path)
    path = saved(tmp_path / "fractions.tif", np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))
    with pytest.raises(MaskError, match="fractions"):
        read_label_map(path)
