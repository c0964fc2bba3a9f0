"""Run lengths are pycocotools', in both forms and both directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from twospeed.ops.rle import compress, decompress, mask_of, run_lengths

MASKS = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)


@given(MASKS)
def test_both_forms_are_pycocotools(mask):
    height, width = mask.shape
    counts = run_lengths(mask)
    theirs = coco.encode(np.asfortranarray(mask))
    assert compress(counts) == theirs["counts"].decode()
    assert coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"] == theirs["counts"]
    assert decompress(theirs["counts"].decode()) == counts
    assert (mask_of(counts, height, width) == mask).all()


def test_long_runs_and_large_differences():
    mask = np.zeros((700, 900), np.uint8)
    mask[100:600, 200:700] = 1
    mask[3, 5] = 1
    text = compress(run_lengths(mask))
    assert text == coco.encode(np.asfortranarray(mask))["counts"].decode()
    assert (mask_of(decompress(text), 700, 900) == mask).all()


@pytest.mark.parametrize(("text", "message"), [("Ā", "does not occur"), ("o", "middle of a number")])
def test_what_is_no_string_of_run_lengths(text, message):
    with pytest.raises(ValueError, match=message):
        decompress(text)


def test_counts_of_another_size_are_refused():
    with pytest.raises(ValueError, match="counts of 3 pixels for a mask of 2 x 2"):
        mask_of([1, 2], 2, 2)
