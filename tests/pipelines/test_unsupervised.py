"""Objects found without masks: linking over time, results of every tracker, short and empty videos, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from twospeed import InputError, MaskError, VideoError, WeightsUnavailable, create_model, track
from twospeed.cli.main import exit_code
from twospeed.data.clips.synthetic import render_clip
from twospeed.pipelines.linking import ObjectLinker
from twospeed.pipelines.unsupervised import UnsupervisedTracker
from twospeed.results import Frame, ObjectMasks
from twospeed.video.indexed_png import read_label_map
from twospeed.video.writer import VideoWriter

SIZE = (48, 64)


@pytest.fixture(scope="module")
def model():
    """An untrained network that takes everything for an object: what it finds means nothing, all else is real."""
    torch.manual_seed(0)
    return create_model(
        "slowfast_maskrcnn_3_7",
        None,
        backbone="nano",
        min_size=48,
        max_size=80,
        proposals=20,
        detections_per_img=4,
        score_thresh=0.0,
    )


@pytest.fixture(scope="module")
def clip() -> list[Frame]:
    images = render_clip(1, frames=5, height=SIZE[0], width=SIZE[1], objects=2)
    return [Frame(index, index / 10, image) for index, (image, _) in enumerate(images)]


def box(x: int, y: int, width: int = 20, height: int = 20) -> np.ndarray:
    mask = np.zeros((60, 100), bool)
    mask[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = True
    return mask


def link(linker: ObjectLinker, *masks: np.ndarray, scores: list[float] | None = None) -> list[int]:
    stack = np.stack(masks) if masks else np.zeros((0, 60, 100), bool)
    return linker.link(stack, np.array(scores or [0.9] * len(masks)))


def test_objects_keep_their_numbers_in_whatever_order_they_are_detected():
    linker = ObjectLinker()
    for t in range(20):
        left, right = box(2 * t, 5), box(75 - 2 * t, 35)
        left_number, right_number = link(linker, left, right) if t % 2 == 0 else link(linker, right, left)[::-1]
        assert (left_number, right_number) == (1, 2)
    assert linker.object_ids == (1, 2)


def test_matching_takes_the_best_sum_not_the_first_comer():
    linker = ObjectLinker(min_iou=0.1)
    link(linker, box(10, 10), box(26, 10))
    # The first detection lies between both objects, the second only on object 1
    assert link(linker, box(19, 10), box(8, 10)) == [2, 1]


def test_within_reach_a_fast_object_keeps_its_number_and_another_size_does_not():
    near, far = ObjectLinker(reach=3.0), ObjectLinker()
    for linker, numbers in ((near, [1, 1, 2, 3]), (far, [1, 2, 3, 4])):
        found = [link(linker, box(2, 10))[0], link(linker, box(30, 10))[0]]
        found.append(link(linker, box(60, 40, 5, 5))[0])  # within reach, but a sixteenth of the area
        linker.forget_places()  # a cut
        assert [*found, link(linker, box(60, 40, 5, 5))[0]] == numbers


def test_an_object_that_leaves_and_comes_back_gets_its_number_back():
    linker = ObjectLinker()
    assert link(linker, box(80, 10), box(10, 30)) == [1, 2]
    for _ in range(30):
        assert link(linker, box(10, 30)) == [2]
    assert link(linker, box(10, 30), box(78, 12)) == [2, 1]


def test_one_that_turns_up_elsewhere_is_new():
    linker = ObjectLinker()
    link(linker, box(80, 10))
    link(linker)
    assert link(linker, box(10, 10)) == [2]


def test_frames_without_objects_change_nothing():
    linker = ObjectLinker()
    assert link(linker) == []
    assert linker.object_ids == ()
    assert link(linker, box(5, 5)) == [1]
    assert link(linker, np.zeros((60, 100), bool)) == [0]
    assert link(linker, box(5, 5)) == [1]


def test_doubtful_detections_carry_on_but_do_not_begin():
    linker = ObjectLinker(min_score=0.5)
    assert link(linker, box(5, 5), box(50, 5), scores=[0.9, 0.4]) == [1, 0]
    assert link(linker, box(6, 5), scores=[0.1]) == [1]


def test_a_part_of_an_object_is_no_new_one():
    linker = ObjectLinker()
    assert link(linker, box(10, 10, 40, 40), box(12, 12, 10, 10), scores=[0.9, 0.8]) == [1, 0]


def test_numbers_are_bounded_and_given_up_by_the_one_gone_longest():
    linker = ObjectLinker(max_objects=2, patience=3)
    assert link(linker, box(0, 0), box(40, 0), box(80, 0)) == [1, 2, 0]
    for _ in range(3):
        assert link(linker, box(40, 0)) == [2]
    assert link(linker, box(40, 0), box(10, 38)) == [2, 1]
    assert linker.object_ids == (1, 2)


def test_known_objects_are_followed_alone_and_may_come_back_anywhere():
    linker = ObjectLinker(known={3: box(10, 10), 5: box(60, 30)})
    assert linker.object_ids == (3, 5)
    assert link(linker, box(61, 30), box(11, 10), box(40, 0), scores=[0.9, 0.9, 0.99]) == [5, 3, 0]
    for _ in range(3):
        assert link(linker, box(11, 10)) == [3]
    assert link(linker, box(0, 40), box(12, 10), scores=[0.4, 0.9]) == [0, 3]  # too doubtful to be the one that left
    assert link(linker, box(0, 40), box(12, 10)) == [5, 3]
    assert linker.object_ids == (3, 5)


@pytest.mark.parametrize("options", [{"max_objects": 0}, {"max_objects": 256}, {"min_score": 2}, {"min_iou": -1}])
def test_linking_options_that_make_no_sense(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is"):
        ObjectLinker(**options)


@pytest.mark.parametrize(("merged", "frames"), [(True, 5), (False, 5), (False, 1)])
def test_results_are_those_of_every_tracker(model, clip, merged, frames):
    """Also for a clip shorter than the window (7 frames) and than half of it."""
    results = list(track(iter(clip[:frames]), None, model, merged=merged, min_score=0.0))
    assert [r.frame_index for r in results] == list(range(frames))
    assert [r.time_s for r in results] == [f.time_s for f in clip[:frames]]
    for result in results:
        assert result.labels.shape == SIZE
        assert result.labels.dtype == np.uint8
        assert result.probabilities.shape == (len(result.object_ids) + 1, *SIZE)
        np.testing.assert_allclose(result.probabilities.sum(0), 1, atol=1e-5)
        assert set(np.unique(result.labels)) <= {0, *result.object_ids}
        sure = np.abs(result.probabilities.max(0) - 0.5) > 1e-3
        best = np.array([0, *result.object_ids])[result.probabilities.argmax(0)]
        assert (best == result.labels)[sure].all()
        assert result.object_ids == (1,) or not merged


def test_the_merged_mask_is_the_union_of_what_the_network_finds(model, clip):
    frames = torch.stack([torch.from_numpy(f.image).permute(2, 0, 1) / 255 for f in clip])
    with torch.inference_mode():
        expected = [(found["masks"] >= 0.5).any(0)[0].numpy() for found in model(frames)]
    merged = list(track(iter(clip), None, model, merged=True))
    for result, union in zip(merged, expected, strict=True):
        assert ((result.labels == 1) == union).all()


def test_a_frame_in_which_nothing_is_found_is_background(model, clip):
    for merged in (True, False):
        for result in track(iter(clip[:2]), None, model, merged=merged, min_score=1.0):
            assert not result.labels.any()
            assert result.object_ids == ((1,) if merged else ())
            assert (result.probabilities[0] > 0.99).all()


def test_a_unsupervised_tracker_begins_again_after_a_video(model, clip):
    unsupervised_tracker = UnsupervisedTracker(model, min_score=0.0)
    first = [r.labels for _, r in unsupervised_tracker.run(clip[:2])]
    pairs = list(unsupervised_tracker.run(clip[:2]))
    assert [f.index for f, _ in pairs] == [0, 1]
    assert all((r.labels == labels).all() for (_, r), labels in zip(pairs, first, strict=True))


def after(tracker: UnsupervisedTracker, first_masks: np.ndarray, frames: list[Frame]) -> list[ObjectMasks]:
    """Results of a video whose first masks are known."""
    tracker.reset(first_masks)
    results = [tracker.step(frame.image) for frame in frames]
    return [result for result in results if result is not None] + tracker.finish()


def test_a_result_comes_some_frames_later(model, clip):
    tracker = UnsupervisedTracker(model)
    assert tracker.delay == 3
    assert [tracker.step(frame.image, time_s=frame.time_s) is None for frame in clip] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert [result.frame_index for result in tracker.finish()] == [2, 3, 4]
    with pytest.raises(InputError, match="takes none; use Tracker"):
        tracker.step(clip[0].image, np.ones(SIZE, np.uint8))


def test_labels_of_known_objects_are_kept(model, clip):
    masks = np.zeros(SIZE, np.uint8)
    masks[:24], masks[24:] = 9, 4
    unsupervised_tracker = UnsupervisedTracker(model, min_score=0.0)
    for result in after(unsupervised_tracker, masks, clip[:3]):
        assert result.object_ids == (4, 9)
        assert set(np.unique(result.labels)) <= {0, 4, 9}
    with pytest.raises(MaskError, match="frame 0 is 64x48, its masks 32x48"):
        after(unsupervised_tracker, masks[:, :32], clip[:1])
    with pytest.raises(MaskError, match="mark no object"):
        unsupervised_tracker.reset(np.zeros(SIZE, np.uint8))


@pytest.mark.parametrize(("height", "width"), [(45, 61), (33, 200), (64, 17)])
def test_odd_and_grey_images(model, height, width, tmp_path):
    """Any size and shape, also grey files: masks come back at the image's size."""
    grey = np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8)
    for index, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / f"{index:05d}.png")
    results = list(track(tmp_path, None, model, min_score=0.0))
    assert [r.labels.shape for r in results] == [(height, width)] * 3


def test_no_frames_no_results(model):
    assert list(UnsupervisedTracker(model).run([])) == []
    with pytest.raises(VideoError, match="0 frames came"):
        track(iter([]), None, model)


def test_what_is_refused(model, clip):
    with pytest.raises(InputError, match="masks were given, but SlowFastMaskRCNN finds objects without"):
        track(clip, np.ones(SIZE, np.uint8), model)
    with pytest.raises(InputError, match="memory_every is no option of UnsupervisedTracker"):
        track(clip, None, model, memory_every=5)
    with pytest.raises(InputError, match="track_tiny follows masks that are given"):
        UnsupervisedTracker("track_tiny")
    with pytest.raises(InputError, match="size is 64, but the network is built already"):
        UnsupervisedTracker(model, size=64)
    with pytest.raises(InputError, match="min_score is 3"):
        UnsupervisedTracker(model, min_score=3)
    with pytest.raises(WeightsUnavailable, match="no weights are published for slowfast_maskrcnn_3_7"):
        track(clip, None, "slowfast_maskrcnn_3_7")
    unsupervised_tracker = UnsupervisedTracker(model)
    with pytest.raises(InputError, match=r"image is torch.uint8 of shape \(48, 64\)"):
        unsupervised_tracker.step(clip[0].image[..., 0])
    unsupervised_tracker.step(clip[0].image)
    with pytest.raises(InputError, match="frame 1 is 32x48, the frames before it 64x48"):
        unsupervised_tracker.step(clip[1].image[:, :32])


def fails(capsys, *arguments: object) -> str:
    capsys.readouterr()
    assert exit_code([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_command_line(model, clip, tmp_path, capsys):
    from twospeed.weights.load import save_model

    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    save_model(model, weights, model_name="slowfast_maskrcnn_3_7")
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for frame in clip[:3]:
            writer.write(frame.image)
    command = ["track", tmp_path / "clip.mp4", "--model", "slowfast_maskrcnn_3_7"]
    assert exit_code([str(a) for a in (*command, "--weights", weights, "--size", 0, "--merged", "-o", out, "-q")]) == 0
    masks = sorted((out / "masks").glob("*.png"))
    assert [m.name for m in masks] == ["00000.png", "00001.png", "00002.png"]
    assert read_label_map(masks[0]).shape == SIZE
    assert (out / "overlay.mp4").is_file()
    assert '"size": 48' in (out / "run.json").read_text()
    assert "no weights are published for slowfast_maskrcnn_3_7" in fails(capsys, *command)
    assert "finds objects without prompts; leave --mask out" in fails(capsys, *command, "--mask", masks[0])
    assert "leave --memory-every out" in fails(capsys, *command, "--memory-every", 3)
    assert "leave --merged out" in fails(capsys, "track", tmp_path / "clip.mp4", "--mask", masks[0], "--merged")
