"""Label PNGs read quickly: every filter, what Pillow reads, and nothing of what is unusual or damaged."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from twospeed.data.benchmarks import label_files
from twospeed.data.benchmarks.label_files import read_indices
from twospeed.video.indexed_png import write_indexed_png
from twospeed.video.png_labels import read_png_labels

GREY, PALETTE = 0, 3


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def png(rows: np.ndarray, colour: int = GREY, *, parts: int = 1, header: bytes = b"\x08%c\0\0\0") -> bytes:
    """A PNG of filtered rows, uint8 (H, 1 + W), the first byte of each its filter."""
    size = (rows.shape[1] - 1).to_bytes(4) + rows.shape[0].to_bytes(4)
    packed = zlib.compress(rows.tobytes())
    step = -(-len(packed) // parts)
    pixels = b"".join(chunk(b"IDAT", packed[i : i + step]) for i in range(0, len(packed), step))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == PALETTE else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + header.replace(b"%c", bytes([colour])))
    return start + palette + pixels + chunk(b"IEND", b"")


def general(path: Path) -> tuple[np.ndarray, bool]:
    with Image.open(path) as image:
        return np.asarray(image), image.mode == "P"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 20),
    width=st.integers(1, 40),
    filters=st.lists(st.integers(0, 4), min_size=1),
    colour=st.sampled_from([GREY, PALETTE]),
    parts=st.integers(1, 3),
    used=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_every_filter_is_undone_as_pillow_does(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int, height: int, width: int, filters: list[int], colour: int, parts: int,
    used: tuple[float, float, float, float],
):  # fmt: skip
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (height, width + 1), dtype=np.uint8)
    (top, bottom), (left, right) = sorted(used[:2]), sorted(used[2:])  # all other bytes are 0, as around a mask
    for x, first, last in ((rows, top, bottom), (rows.T, left, right)):
        x[: round(first * len(x))] = 0
        x[round(last * len(x)) :] = 0
    rows[:, 0] = np.resize(filters, height)
    check_against_pillow(tmp_path_factory.mktemp("png") / "mask.png", rows, colour, parts)


@pytest.mark.parametrize("choose", ["none", "smallest"])
def test_filtered_masks_equal_pillows_whatever_their_shape(tmp_path: Path, choose: str):
    """Masks as encoders filter them: rows of zeros around an object, which may touch any side."""
    rng = np.random.default_rng(0)
    for i in range(40):
        mask = np.zeros((24, 36), np.uint8)
        y, x = rng.integers(-6, 20, 2), rng.integers(-6, 30, 2)
        mask[max(0, y.min()) : y.max() + 4, max(0, x.min()) : x.max() + 4] = 255
        mask[rng.random(mask.shape) < 0.02 * (i % 3)] ^= 255
        filters = rng.integers(0, 5, 24) if choose == "none" else None
        check_against_pillow(tmp_path / "mask.png", filtered(mask, filters), GREY, 1)


def filtered(values: np.ndarray, filters: np.ndarray | None) -> np.ndarray:
    """Filter rows as a PNG encoder does; filters: of each row, None for the one with the smallest sum in each."""
    above = np.pad(values.astype(int), ((1, 0), (1, 0)))
    left, up, corner = above[1:, :-1], above[:-1, 1:], above[:-1, :-1]
    far = [np.abs(left + up - corner - x) for x in (left, up, corner)]
    paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner))
    stored = np.stack([(values - x) % 256 for x in (0 * up, left, up, (left + up) // 2, paeth)]).astype(np.uint8)
    if filters is None:
        filters = np.abs(stored.view(np.int8).astype(int)).sum(2).argmin(0)
    return np.concatenate([filters[:, None].astype(np.uint8), stored[filters, np.arange(len(values))]], axis=1)


def check_against_pillow(path: Path, rows: np.ndarray, colour: int, parts: int) -> None:
    path.write_bytes(png(rows, colour, parts=parts))
    values, is_palette = general(path)
    for cut in (False, True):
        found = read_png_labels(path, cut=cut)
        assert found is not None
        np.testing.assert_array_equal(found.whole(), values)
        assert found.is_palette == is_palette
        height, width = found.values.shape
        bottom, right = found.height - found.top - height, found.width - found.left - width
        margins = found.top, bottom, found.left, right
        sides = found.values[:1], found.values[-1:], found.values[:, :1], found.values[:, -1:]
        assert not any(margin and side.any() for margin, side in zip(margins, sides, strict=True))


@pytest.mark.parametrize("filters", [0, 1, 2, 3, 4])
def test_margins_of_zeros_are_cut_away(tmp_path: Path, filters: int):
    mask = np.zeros((24, 36), np.uint8)
    mask[5:9, 10:20] = 255
    (tmp_path / "mask.png").write_bytes(png(filtered(mask, np.full(24, filters))))
    found = read_png_labels(tmp_path / "mask.png", cut=True)
    assert found is not None
    assert (found.top, found.left, found.height, found.width) == (4, 9, 24, 36)
    np.testing.assert_array_equal(found.values[:6, :12], mask[4:10, 9:21])
    assert found.values.size <= 16 * 27  # halves take several pixels to fade


def test_data_sets_read_masks_without_the_general_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    write_indexed_png(tmp_path / "palette.png", labels)
    Image.fromarray(labels).save(tmp_path / "grey.png")

    def not_needed(*args: object) -> None:
        raise AssertionError("the general reader was asked")

    monkeypatch.setattr(label_files, "open_image", not_needed)
    for name, is_palette in (("palette", True), ("grey", False)):
        values, found = read_indices(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(values, labels)
        assert found is is_palette


ROWS = np.zeros((4, 5), np.uint8)
WHOLE = png(ROWS)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xd8\xff" + WHOLE, id="other signature"),
        pytest.param(WHOLE[:-20], id="cut off"),
        pytest.param(WHOLE[:45] + bytes([WHOLE[45] ^ 1]) + WHOLE[46:], id="a bit flipped"),
        pytest.param(png(ROWS, header=b"\x10%c\0\0\0"), id="16 bits"),
        pytest.param(png(ROWS, header=b"\x08%c\0\0\1"), id="interlaced"),
        pytest.param(png(ROWS, 2), id="colour"),
        pytest.param(png(np.full((4, 5), 7, np.uint8)), id="no such filter"),
        pytest.param(png(np.array([[1, 9, 0], [0, 0, 0], [5, 0, 0]], np.uint8)), id="no such filter, of a row of 0"),
        pytest.param(
            WHOLE.replace(WHOLE[12:33], chunk(b"IHDR", b"\0\0\0\4\0\0\0\5\x08\0\0\0\0")[4:]), id="too few rows"
        ),
        pytest.param(
            WHOLE.replace(WHOLE[12:33], chunk(b"IHDR", b"\0\0\0\4\0\0\0\3\x08\0\0\0\0")[4:]), id="too many rows"
        ),
        pytest.param(
            WHOLE.replace(WHOLE[12:33], chunk(b"IHDR", b"\0\1\0\0\0\1\0\0\x08\0\0\0\0")[4:]), id="too many pixels"
        ),
    ],
)
def test_what_is_unusual_or_damaged_is_left_to_the_general_reader(tmp_path: Path, data: bytes):
    (tmp_path / "mask.png").write_bytes(data)
    assert read_png_labels(tmp_path / "mask.png") is None


def test_a_missing_file_is_left_to_the_general_reader(tmp_path: Path):
    assert read_png_labels(tmp_path / "none.png") is None
    assert read_png_labels(tmp_path) is None
