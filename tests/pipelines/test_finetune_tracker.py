"""A tracker that practises on the first masks follows them better, and forgets with the video."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from twospeed import InputError, MaskError, Tracker, create_model
from twospeed.cli.main import exit_code
from twospeed.data.clips.synthetic import render_clip
from twospeed.metrics.regions import outline, region_similarity
from twospeed.models.stcn.network import STCN
from twospeed.models.stm.builders import stm
from twospeed.pipelines.finetune_tracker import TrackerFineTuning, fine_tune_tracker
from twospeed.video.indexed_png import read_label_map, write_indexed_png

QUICK = TrackerFineTuning(iterations=40, batch=2, crop=96, lr=1e-3)


@pytest.fixture(scope="module")
def network() -> STCN:
    """track_tiny that has forgotten how a mask is drawn."""
    torch.manual_seed(0)
    model = create_model("track_tiny", "default")
    torch.nn.init.normal_(model.decoder.predict.weight, std=0.02)
    return model.eval()


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray]]:
    """Eight frames with one object, 7."""
    return [(image, labels * 7) for image, labels in render_clip(3, frames=8, height=96, width=128, objects=1)]


def mean_iou(tracker: Tracker, clip) -> float:
    tracker.reset()
    results = [tracker.step(image, labels if t == 0 else None) for t, (image, labels) in enumerate(clip)]
    pairs = zip(results[1:], clip[1:], strict=True)
    return float(np.mean([region_similarity(outline(r.labels > 0), outline(m > 0)) for r, (_, m) in pairs]))


def test_practice_makes_the_other_frames_better_and_ends_with_the_video(network, clip):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    untuned = mean_iou(Tracker(network, size=None), clip)
    tracker = Tracker(network, size=None, finetune=QUICK)
    assert mean_iou(tracker, clip) > untuned + 0.2
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    tracker.finetune = None
    assert mean_iou(tracker, clip) == pytest.approx(untuned), "another video starts with the network as it was given"


def test_the_same_seed_gives_the_same_network_and_leaves_others_draws_alone(network, clip):
    few = TrackerFineTuning(iterations=2, batch=1, crop=64)
    state = torch.get_rng_state()
    one, two = (fine_tune_tracker(network, *clip[0], few) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert not torch.equal(one.key_projection.weight, network.key_projection.weight)
    other = fine_tune_tracker(network, *clip[0], TrackerFineTuning(iterations=2, batch=1, crop=64, seed=1))
    assert not torch.equal(one.key_projection.weight, other.key_projection.weight)


def test_stm_learns_too_at_the_size_at_which_it_works(clip):
    told = []
    tracker = Tracker(
        stm(width=8),
        size=80,
        finetune=TrackerFineTuning(iterations=2, batch=1, crop=64),
        on_progress=lambda progress: told.append((progress.done, progress.values["loss"])),
    )
    assert tracker.step(*clip[0]).labels.shape == (96, 128)
    assert [done for done, _ in told] == [1, 2]
    assert all(np.isfinite(loss) for _, loss in told)


def test_what_cannot_be_learned_is_refused(network, clip):
    image, labels = clip[0]
    with pytest.raises(MaskError, match="nothing to learn"):
        fine_tune_tracker(network, image, np.zeros_like(labels))
    for wrong, message in (({"iterations": 0}, "1 or more"), ({"crop": 100}, "multiple of 16"), ({"lr": 0}, "above 0")):
        with pytest.raises(InputError, match=message):
            TrackerFineTuning(**wrong)
    with pytest.raises(InputError, match="lower lr"):
        fine_tune_tracker(network, image, labels, TrackerFineTuning(iterations=30, batch=1, crop=64, lr=1e30))


def test_the_command_learns_says_so_and_records_it(clip, tmp_path, capsys):
    frames = tmp_path / "frames"
    frames.mkdir()
    for t, (image, _) in enumerate(clip[:3]):
        cv2.imwrite(str(frames / f"{t:05d}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_indexed_png(tmp_path / "first.png", clip[0][1])
    command = ["track", str(frames), "--mask", str(tmp_path / "first.png"), "-o", str(tmp_path / "out")]
    assert exit_code([*command, "--finetune", "1", "-q"]) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["finetune"] == 1
    assert set(np.unique(read_label_map(tmp_path / "out" / "masks" / "00002.png"))) == {0, 7}


def test_the_benchmark_learns_every_first_mask(clip, tmp_path):
    for name in ("ant", "bee"):
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / "davis" / folder / "480p" / name).mkdir(parents=True)
        for t, (image, labels) in enumerate(clip[:4]):
            cv2.imwrite(str(tmp_path / f"davis/JPEGImages/480p/{name}/{t:05d}.jpg"), image[..., ::-1])
            cv2.imwrite(str(tmp_path / f"davis/Annotations/480p/{name}/{t:05d}.png"), (labels > 0) * np.uint8(255))
    command = ["evaluate", "davis16", "--data", tmp_path / "davis", "--model", "track_tiny", "--sequences", "ant,bee"]
    assert exit_code([str(a) for a in (*command, "--finetune", 1, "--json", tmp_path / "scores.json")]) == 0
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["settings"]["finetune"] == 1
