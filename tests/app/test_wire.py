from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from twospeed.app import wire
from twospeed.errors import InputError

LABELS = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 200)), elements=st.integers(0, 3))


@given(LABELS, st.dictionaries(st.integers(1, 254), st.floats(0, 1, width=32), max_size=4))
def test_a_mask_survives_the_wire(labels, confidence):
    mask = wire.mask_of(labels, 7, confidence, wire.TRACKED)
    back = wire.parse(mask.to_bytes(), labels.shape)
    assert (back.labels() == labels).all()
    assert back == mask


def test_long_runs_take_several_bytes():
    labels = np.zeros((2000, 3000), np.uint8)
    labels[999, 2999] = 5
    data = wire.mask_of(labels, 0).to_bytes()
    assert len(data) == 24 + 3 + 4 + 1 + 4  # runs of 2,999,999 and 1 and 3,000,000 pixels
    assert (wire.parse(data).labels() == labels).all()


@given(LABELS, st.data())
def test_what_is_no_mask_is_refused(labels, data):
    """Any change of one byte is refused or gives a mask of the stated size; it never crashes."""
    good = bytearray(wire.mask_of(labels, 1).to_bytes())
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    for candidate in (bytes(good), cut, bytes(good) + b"\x01"):
        try:
            mask = wire.parse(candidate)
        except InputError:
            continue
        assert mask.labels().shape == (mask.height, mask.width)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01" * 10,
        struct.pack("<BBHIIHHII", 2, 0, 0, 0, 0, 1, 1, 1, 0) + b"\0\1",
        struct.pack("<BBHIIHHII", 1, 0, 0, 0, 0, 1, 1, 2**32 - 1, 0) + b"\0\1",
        struct.pack("<BBHIIHHII", 1, 0, 0, 0, 0, 16385, 1, 1, 0) + b"\0\1",
        struct.pack("<BBHIIHHII", 1, 0, 0, 0, 0, 2, 2, 1, 0) + b"\0\3",
        struct.pack("<BBHIIHHII", 1, 0, 0, 0, 0, 1, 1, 1, 0) + b"\0\x80\x80\x80\x80\x80\x01",
        struct.pack("<BBHIIHHII", 1, 0, 0, 0, 0, 1, 2, 2, 0) + b"\0\1\0\2",
    ],
)
def test_refusals(data):
    with pytest.raises(InputError):
        wire.parse(data)


@pytest.mark.parametrize("runs", [b"", b"\0", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\0\0\0\0", None, "text"])
def test_stored_masks_that_are_damaged_are_refused(runs):
    with pytest.raises(InputError):
        wire.decode_runs(runs, 2, 2)


@pytest.mark.parametrize("data", [b"\0", b"\0" * 9, None])
def test_stored_objects_that_are_damaged_are_refused(data):
    with pytest.raises(InputError):
        wire.unpack_confidence(data)


def test_another_size_is_refused():
    with pytest.raises(InputError, match="the mask is 3x2, its frame 4x2"):
        wire.parse(wire.mask_of(np.zeros((2, 3), np.uint8), 0).to_bytes(), (2, 4))
