"""Snippets: which frames lead to which label, patches that move all of them alike, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.data.driving_trees import image_of, make_camvid, make_cityscapes, write
from twospeed.data.benchmarks import camvid, cityscapes
from twospeed.data.benchmarks.camvid import CamVid
from twospeed.data.benchmarks.cityscapes import Cityscapes
from twospeed.data.clips.snippets import SnippetCrop, TrainSnippets, find_snippets, read_snippet
from twospeed.errors import DatasetError, InputError


def test_cityscapes_goes_through_all_labels_at_each_distance(tmp_path):
    snippets = find_snippets(Cityscapes(make_cityscapes(tmp_path), "val"), (1, 3))
    assert {distance: [len(one) - 1 for one in some] for distance, some in snippets.items()} == {1: [1] * 3, 3: [3] * 3}
    images, labels = read_snippet(snippets[3][0])
    assert images.shape == (4, 64, 128, 3)
    assert labels.shape == (64, 128)
    colours = cityscapes.CLASSES.colours
    seen = labels != cityscapes.VOID
    assert (images[-1][seen] == image_of(np.where(seen, labels, 0), colours)[seen]).all()


def test_camvid_leaves_out_the_start_of_its_run(tmp_path):
    snippets = find_snippets(CamVid(make_camvid(tmp_path, frames=6), "val"), (0, 2, 5))
    assert {distance: len(some) for distance, some in snippets.items()} == {0: 6, 2: 4, 5: 1}
    assert [frame.number for frame in snippets[5][0]] == [7959, 7961, 7963, 7965, 7967, 7969]
    with pytest.raises(DatasetError, match="none of the 6 labelled frames has 6 frames before it"):
        find_snippets(CamVid(tmp_path, "val"), (6,))
    with pytest.raises(InputError, match="distances are"):
        find_snippets(CamVid(tmp_path, "val"), (-1,))


def test_patches_keep_labels_on_their_pixels(tmp_path):
    data = CamVid(make_camvid(tmp_path, size=(96, 160)), "val")
    crop = SnippetCrop(part=0.5, scales=(0.5, 1.0, 1.5))
    patches = TrainSnippets(find_snippets(data, (2,)), crop, seed=3)
    colours = torch.tensor(camvid.CLASSES.colours)
    drawn = set()
    for epoch in range(12):
        frames, labels = patches[epoch, 1]
        assert frames.shape == (3, 3, 32, 64)
        assert frames.dtype == labels.dtype == torch.uint8
        seen = labels != camvid.VOID
        painted = colours[labels.where(seen, 0).long()].permute(2, 0, 1)
        off = ((frames[-1].long() - painted).abs().amax(0) > 2) & seen
        assert off.float().mean() < 0.1  # columns' edges are mixed by the resize
        drawn.add(labels.numpy().tobytes())
    assert len(drawn) > 5
    again = TrainSnippets(find_snippets(data, (2,)), crop, seed=3)[11, 1]
    assert torch.equal(again[0], frames)


def test_sizes_that_differ_are_refused(tmp_path):
    root = make_camvid(tmp_path, frames=3)
    write(root / "val" / "labels" / "0016E5_07963.png", np.zeros((32, 64), np.uint8))
    with pytest.raises(DatasetError, match=r"labels: is 64x32, but .*0016E5_07963.png is 128x64; frames and labels"):
        read_snippet(find_snippets(CamVid(root, "val"), (1,))[1][-1])
    write(root / "val" / "images" / "0016E5_07959.png", np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"0016E5_07959.png: is 64x32"):
        read_snippet(find_snippets(CamVid(root, "val"), (1,))[1][0])


def test_patches_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"give a part in 0..1 that all cover"):
        SnippetCrop(part=0.75, scales=(0.5,))
    small = TrainSnippets(find_snippets(CamVid(make_camvid(tmp_path, size=(24, 40)), "val"), (1,)), SnippetCrop())
    with pytest.raises(InputError, match="images of 40x24 are too small for patches in multiples of 32 pixels"):
        small[0, 0]
