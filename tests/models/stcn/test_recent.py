"""The frame before as a guide: what is near is believed, what is far is not; the tracker keeps it up to date."""

from __future__ import annotations

import numpy as np
import torch

from twospeed.models.stcn.builders import track_small, track_tiny
from twospeed.models.stcn.network import RecentMasks
from twospeed.pipelines.tracker import Tracker


def test_a_mask_stays_where_it_was_though_another_place_looks_the_same():
    key = torch.ones(1, 8, 10, 12)  # everything looks alike
    masks = torch.zeros(1, 2, 160, 192)
    masks[0, 0, 64:96, 0:32] = 1  # cells rows 4-5, columns 0-1
    masks[0, 1, 64:96, 160:192] = 1
    carried = RecentMasks()(key, key, masks)
    assert carried.shape == (1, 2, 17, 10, 12)
    own, others = carried[0, :, :16].mean(1), carried[0, :, 16]
    assert own[0, 5, 1] > 20 * own[0, 5, 10]
    assert own[1, 5, 10] > 20 * own[1, 5, 1]
    assert torch.allclose(others[0], own[1], atol=1e-6)


def test_a_mask_moves_with_what_it_covers_in_its_finer_parts():
    torch.manual_seed(0)
    key = 20 * torch.randn(1, 16, 6, 8)  # no two cells look alike
    moved = key.roll(1, 3)
    masks = torch.zeros(1, 1, 96, 128)
    masks[0, 0, 32:48, 48:56] = 1  # the left half of cell (2, 3)
    carried = RecentMasks()(moved, key, masks)[0, 0, :16]
    halves = carried[:, 2, 4].view(4, 4)
    assert torch.allclose(halves[:, :2], torch.ones(4, 2), atol=1e-3)
    assert halves[:, 2:].abs().max() < 1e-3


def test_places_keep_their_cells_in_half_precision():
    torch.manual_seed(0)
    key, last, masks = torch.randn(1, 64, 30, 54), torch.randn(1, 64, 30, 54), torch.rand(1, 2, 480, 864)
    network = RecentMasks()
    exact = network(key, last, masks)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(key.bfloat16(), last.bfloat16(), masks)
    assert (rounded - exact).abs().max() < 0.1  # of masks in 0..1; with rounded places it would be most of them
    assert (rounded - exact).abs().mean() < 0.01


def test_networks_without_it_pass_a_readout_on():
    network = track_tiny().eval()
    readout, key = torch.rand(1, 2, 96, 3, 4), torch.rand(1, 64, 3, 4)
    assert not network.sees_last_frame
    assert network.recall_recent(readout, key, key, torch.rand(1, 2, 48, 64)) is readout


def _frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 64, 96, 3), dtype=np.uint8)


def test_a_tracker_goes_on_from_replayed_masks():
    torch.manual_seed(0)
    network = track_small()
    frames = _frames(4)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60] = 1
    results = []
    for replayed in (mask, np.zeros_like(mask)):
        tracker = Tracker(network, memory_every=5, size=None)
        tracker.step(frames[0], mask)
        tracker.replay(frames[1], replayed)
        tracker.replay(frames[2], replayed)
        results.append(tracker.step(frames[3]).probabilities)
    assert not np.allclose(results[0], results[1])  # nothing of these frames is in the memory: only the guide differs


def test_objects_may_appear_later():
    torch.manual_seed(0)
    tracker = Tracker(track_small(), size=None)
    frames = _frames(4)
    first, second = np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8)
    first[5:30, 5:40], second[35:60, 50:90] = 1, 2
    tracker.step(frames[0], first)
    tracker.step(frames[1], second)
    assert tracker.step(frames[2]).probabilities.shape == (3, 64, 96)


def test_a_saved_tracker_goes_on_exactly(tmp_path):
    torch.manual_seed(0)
    network = track_small()
    frames = _frames(4)
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60] = 1
    tracker, other = Tracker(network, size=None), Tracker(network, size=None)
    tracker.step(frames[0], mask)
    tracker.step(frames[1])
    tracker.save_state(tmp_path / "state.safetensors")
    other.load_state(tmp_path / "state.safetensors")
    for frame in frames[2:]:
        assert np.array_equal(tracker.step(frame).probabilities, other.step(frame).probabilities)
