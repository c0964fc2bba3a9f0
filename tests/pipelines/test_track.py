"""The Tracker as its users hold it: results, objects that come and are corrected, bounds, and clear refusals."""

from __future__ import annotations

import copy
import inspect
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import twospeed
from twospeed import InputError, MaskError, Segmenter, Tracker, UnsupervisedTracker, classify, detect, track
from twospeed.data.clips.synthetic import render_clip
from twospeed.errors import VideoError
from twospeed.models.stcn.builders import track_tiny
from twospeed.models.stcn.network import STCN
from twospeed.pipelines.finetune_tracker import TrackerFineTuning
from twospeed.pipelines.track import TrackOptions
from twospeed.results import Frame
from twospeed.video.reader import open_video
from twospeed.video.writer import VideoWriter


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return track_tiny()


@pytest.fixture(scope="module")
def clip() -> list[tuple[np.ndarray, np.ndarray]]:
    return list(render_clip(1, frames=8, height=96, width=130, objects=2))


def test_results_have_the_promised_shapes(model, clip):
    tracker = Tracker(model, size=64)
    for index, (image, truth) in enumerate(clip):
        masks = tracker.step(image, truth if index == 0 else None)
        assert masks.labels.dtype == np.uint8
        assert masks.labels.shape == image.shape[:2]
        assert masks.probabilities.dtype == np.float32
        assert masks.probabilities.shape == (3, *image.shape[:2])
        assert masks.object_ids == (1, 2)
        assert masks.frame_index == index
        np.testing.assert_allclose(masks.probabilities.sum(0), 1, atol=1e-5)
        assert (masks.labels == np.array([0, 1, 2])[masks.probabilities.argmax(0)]).all()


@pytest.mark.parametrize("size", [None, 32, 64, 480])
def test_given_masks_come_back(model, clip, size, tmp_path):
    fine = clip[0][1].copy()
    fine[3, ::2] = 2  # finer than the network sees
    tracker = Tracker(model, size=size)
    for (image, _), masks in zip(clip[:3], (fine, None, np.where(clip[2][1] == 1, 4, 0)), strict=True):
        result = tracker.step(image, masks)
        if masks is not None:
            given = np.unique(masks[masks > 0])
            np.testing.assert_array_equal(np.where(np.isin(result.labels, given), result.labels, 0), masks)
        np.testing.assert_array_equal(np.array([0, *result.object_ids])[result.probabilities.argmax(0)], result.labels)
    for index, (image, _) in enumerate(clip[:3]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    both = list(twospeed.track(tmp_path, {1: fine}, model, direction="both", size=size))
    np.testing.assert_array_equal(both[1].labels, fine)


class Watching(nn.Module):
    """A network of one's own that wants frames of two thirds of the size, and keeps the sizes that it is given."""

    similarity, keys_per_object, masks_as_given, input_scale = "l2", False, False, 2 / 3
    seen: ClassVar[set[tuple[int, int]]] = set()  # of the class, since trackers copy networks

    def __init__(self, inner: STCN):
        super().__init__()
        self.inner = inner
        self.normalise, self.encode_memory, self.decode = inner.normalise, inner.encode_memory, inner.decode

    def encode_key(self, frames):
        self.seen.add(tuple(frames.shape[-2:]))
        return self.inner.encode_key(frames)


@pytest.mark.parametrize(("size", "seen"), [(None, (64, 96)), (60, (48, 64))])  # 64x86 and 40x54, padded
def test_a_network_may_ask_for_smaller_frames(model, clip, size, seen):
    Watching.seen.clear()
    tracker = Tracker(Watching(model), size=size)
    masks = [tracker.step(image, truth if index == 0 else None) for index, (image, truth) in enumerate(clip[:3])]
    assert Watching.seen == {seen}
    assert {one.labels.shape for one in masks} == {clip[0][0].shape[:2]}
    assert (masks[0].labels != clip[0][1]).mean() < 0.05  # the given mask, at the size at which the network works


@pytest.mark.parametrize("name", ["track_tiny", "track_nano"])
def test_the_shipped_networks_follow_moving_objects(name):
    tracker = Tracker(name)
    frames = list(render_clip(5, frames=12, height=240, width=320, objects=2))
    for index, (image, truth) in enumerate(frames):
        masks = tracker.step(image, truth if index == 0 else None)
    _, truth = frames[-1]
    for i in (1, 2):
        found, wanted = masks.labels == i, truth == i
        assert (found & wanted).sum() / (found | wanted).sum() > 0.5
    first = frames[0][1]
    assert all((first == i)[truth == i].mean() < 0.8 for i in (1, 2))  # they did move


def test_numpy_and_tensors_give_the_same(model, clip):
    image, truth = clip[0]
    results = []
    for decoded, mask in (
        (image, truth),
        (torch.from_numpy(image), torch.from_numpy(truth)),
        (torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(truth).long()),
    ):
        tracker = Tracker(model, size=None)
        tracker.step(decoded, mask)
        results.append(tracker.step(decoded).probabilities)
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"include_last": True}, {"max_memory_frames": 2}], ids=str)
def test_replayed_frames_leave_the_memory_as_if_they_had_been_tracked(model, clip, options):
    tracker = Tracker(model, memory_every=2, size=64, **options)
    tracker.step(*clip[0])
    for image, truth in clip[1:6]:
        assert (tracker.replay(image, truth).labels == truth).all()
    remembered = tracker.memory_frames
    again = Tracker(model, memory_every=2, size=64, **options)
    again.replay(clip[0][0], clip[0][1], clip[0][1])
    for image, _ in clip[1:6]:
        again.step(image)
    assert again.memory_frames == remembered
    assert again._state.since_memory == tracker._state.since_memory
    assert tracker.step(clip[6][0]).frame_index == again.step(clip[6][0]).frame_index == 6


def test_frames_before_any_mask_are_background(model, clip):
    tracker = Tracker(model, size=None)
    masks = tracker.step(clip[0][0])
    assert not masks.labels.any()
    assert masks.object_ids == ()
    assert masks.probabilities.shape == (1, 96, 130)
    assert tracker.memory_frames == 0
    assert tracker.step(clip[1][0], clip[1][1]).object_ids == (1, 2)


def test_objects_may_appear_later_with_any_label(model, clip):
    tracker = Tracker(model, size=None)
    tracker.step(clip[0][0], np.where(clip[0][1] == 1, 200, 0).astype(np.uint8))
    late = tracker.step(clip[1][0], np.where(clip[1][1] == 2, 5, 0).astype(np.uint8))
    assert late.object_ids == (200, 5)
    assert (late.labels[clip[1][1] == 2] == 5).all()
    assert set(np.unique(tracker.step(clip[2][0]).labels)) <= {0, 5, 200}


def test_a_known_label_is_corrected(model, clip):
    tracker = Tracker(model, size=None)
    tracker.step(clip[0][0], clip[0][1])
    tracker.step(clip[1][0])
    correction = np.zeros_like(clip[2][1])
    correction[10:30, 10:40] = 2
    masks = tracker.step(clip[2][0], correction)
    assert masks.object_ids == (1, 2)
    assert ((masks.labels == 2) == (correction == 2)).all()


def test_an_empty_mask_later_changes_nothing(model, clip):
    outcomes = []
    for given in (None, np.zeros_like(clip[1][1])):
        tracker = Tracker(model, size=None)
        tracker.step(clip[0][0], clip[0][1])
        outcomes.append(tracker.step(clip[1][0], given).labels)
    assert (outcomes[0] == outcomes[1]).all()


@pytest.mark.parametrize(("options", "expected"), [
    ({"memory_every": 3}, [1, 1, 1, 2, 2, 2, 3, 3]),
    ({"memory_every": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
    ({"memory_every": 3, "include_last": True}, [1, 2, 2, 2, 3, 3, 3, 4]),
    ({"memory_every": 1, "max_memory_frames": 3}, [1, 2, 3, 3, 3, 3, 3, 3]),
])  # fmt: skip
def test_memory_schedule(model, clip, options, expected):
    tracker = Tracker(model, size=None, **options)
    frames = []
    for index, (image, truth) in enumerate(clip):
        tracker.step(image, truth if index == 0 else None)
        frames.append(tracker.memory_frames)
    assert frames == expected


def test_reset_forgets(model, clip):
    tracker = Tracker(model, size=None)
    first = [tracker.step(clip[0][0], clip[0][1]), tracker.step(clip[1][0])]
    tracker.reset()
    assert tracker.memory_frames == 0
    again = [tracker.step(clip[0][0], clip[0][1]), tracker.step(clip[1][0])]
    np.testing.assert_array_equal(first[1].probabilities, again[1].probabilities)


def test_many_objects_are_decoded_like_few(model, clip):
    """Objects are decoded in chunks; each one's own logits do not depend on the chunk it falls into."""
    image = clip[0][0]
    labels = np.zeros(image.shape[:2], np.uint8)
    for i in range(11):
        labels[8 * i : 8 * i + 8, :] = i + 1
    tracker = Tracker(model, size=None)
    tracker.step(image, labels)
    masks = tracker.step(image)
    assert masks.probabilities.shape[0] == 12
    assert np.isfinite(masks.probabilities).all()


def test_track_takes_frames_and_masks_by_index(model, clip):
    frames = (Frame(index, index / 10, image) for index, (image, _) in enumerate(clip))
    results = list(track(frames, {0: clip[0][1], 3: clip[3][1]}, model, size=None))
    assert [r.frame_index for r in results] == list(range(8))
    assert results[7].time_s == pytest.approx(0.7)
    assert (results[3].labels == clip[3][1]).all()


@pytest.mark.parametrize("options", [{"masks": 8}, {"masks": 3, "gone": {8: [1]}}])
def test_a_mask_of_no_frame_is_an_error_after_the_last_one(model, clip, options):
    _, truth = clip[0]
    results = track(iter([image for image, _ in clip]), {options["masks"]: truth}, model, gone=options.get("gone"))
    assert [next(results).frame_index for _ in clip] == list(range(8))
    with pytest.raises(InputError, match="a mask is given for frame 8, which is none of those tracked"):
        next(results)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((96, 130), np.uint8), "the first mask holds no object"),
        (np.full((96, 130), 255), "all background or void: 255 is no object"),
        (np.ones((10, 130), np.uint8), "mask is 130x10, its frame 130x96"),
        (np.ones((96, 130), np.float32), "masks are torch.float32 .* give integer labels"),
        (np.arange(96 * 130).reshape(96, 130) % 200, "199 different labels, and most of them fill no area"),
        (np.full((96, 130), 300), "mask labels run from 300 to 300; labels are 0..255"),
    ],
)
def test_masks_that_are_refused(model, clip, mask, message):
    with pytest.raises(MaskError, match=message):
        Tracker(model, size=None).step(clip[0][0], mask)


def test_images_that_are_refused(model, clip):
    tracker = Tracker(model, size=None)
    with pytest.raises(InputError, match=r"image is torch.uint8 of shape \(96, 130\); give uint8 \(H, W, 3\)"):
        tracker.step(clip[0][1])
    tracker.step(clip[0][0], clip[0][1])
    with pytest.raises(InputError, match="frame 1 is 100x96, the frames before it 130x96"):
        tracker.step(clip[1][0][:, :100])


@pytest.mark.parametrize(
    "options", [{"memory_every": 0}, {"top_k": 0}, {"max_memory_frames": 0}, {"max_objects": 0}, {"size": 4}]
)
def test_options_that_make_no_sense(model, options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is"):
        Tracker(model, **options)


def test_no_masks_need_another_model(clip):
    with pytest.raises(InputError, match="no masks were given"):
        track([], None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu(model, clip):
    outcomes = []
    for device in ("cpu", "cuda"):
        tracker = Tracker(model, size=None, device=device)
        tracker.step(clip[0][0], clip[0][1])
        outcomes.append(tracker.step(clip[1][0]).probabilities)
    np.testing.assert_allclose(outcomes[1], outcomes[0], atol=1e-3)


def test_void_pixels_keep_the_prediction_and_are_no_object(model, clip):
    plain, tracker = Tracker(model, size=None), Tracker(model, size=None)
    for each in (plain, tracker):
        each.step(*clip[0])
    predicted = plain.step(clip[1][0]).labels
    given = np.full_like(predicted, 255)
    given[:40, :50] = np.where(clip[1][1][:40, :50] == 1, 1, 0)
    masks = tracker.step(clip[1][0], given)
    assert masks.object_ids == (1, 2)
    one = given[:40, :50] == 1
    assert one.any()
    assert (masks.labels[:40, :50][one] == 1).all()
    assert (masks.labels[40:] == predicted[40:]).mean() > 0.99
    assert (masks.labels[:, 50:] == predicted[:, 50:]).mean() > 0.99
    first = Tracker(model, size=None).step(clip[0][0], np.where(clip[0][1] == 2, 255, clip[0][1]).astype(np.uint8))
    assert first.object_ids == (1,)
    assert (first.labels == (clip[0][1] == 1)).all()


def test_an_object_that_is_gone_stays_away_until_it_is_given_again(model, clip):
    tracker = Tracker(model, size=None, memory_every=2)
    tracker.step(*clip[0])
    assert tracker.memory_frames == 1
    masks = tracker.step(clip[1][0], gone=(2,))
    assert tracker.memory_frames == 2, "the frame that says so is remembered"
    for image, _ in clip[2:5]:
        assert masks.object_ids == (1, 2)
        assert not (masks.labels == 2).any()
        assert masks.confidence[1] == 0
        masks = tracker.step(image)
    back = np.where(clip[5][1] == 2, 2, 0).astype(np.uint8)
    assert ((tracker.step(clip[5][0], back).labels == 2) == (back == 2)).all()
    with pytest.raises(InputError, match="gone names object 7, which was never given"):
        tracker.step(clip[6][0], gone=(7,))
    with pytest.raises(InputError, match="object 2 is in the masks and in gone"):
        tracker.step(clip[6][0], back, gone=(2,))


def test_confidence_is_of_the_size_at_which_the_network_works(model, clip):
    tracker = Tracker(model, size=None)
    tracker.step(*clip[0])
    masks = tracker.step(clip[1][0])
    for number, i in enumerate(masks.object_ids):
        p, found = masks.probabilities[number + 1].astype(float), masks.labels == i
        inside = p[found].sum()
        assert masks.confidence[number] == pytest.approx(inside / (p.sum() + found.sum() - inside), abs=1e-5)
    assert masks.confidence.dtype == np.float32
    assert Tracker(model).step(clip[0][0]).confidence.shape == (0,)


def test_results_do_not_change_when_the_tracker_goes_on(model, clip):
    lazy, eager = Tracker(model, size=64), Tracker(model, size=64)
    results, expected = [], []
    for index, (image, truth) in enumerate(clip[:4]):
        given = truth if index == 0 else None
        results.append(lazy.step(image, given))
        expected.append(eager.step(image, given).probabilities.copy())
    for result, planes in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.probabilities, planes)


BAD = [
    (lambda image, mask: (image[..., 0], None), "image is torch.uint8"),
    (lambda image, mask: (image[:50], None), "frame 2 is 130x50"),
    (
        lambda image, mask: (torch.from_numpy(image).permute(2, 0, 1).float(), None),
        "values from .* a float image is in",
    ),
    (lambda image, mask: (torch.full((3, 96, 130), float("nan")), None), "without NaN"),
    (lambda image, mask: (image, mask[:50]), "mask is 130x50"),
    (lambda image, mask: (image, mask.astype(float)), "give integer labels"),
    (lambda image, mask: (image, np.arange(96 * 130).reshape(96, 130) % 200), "199 different labels"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_after_a_refusal_the_tracker_is_as_it_was(model, clip, change, message):
    tracker, other = Tracker(model, size=None, memory_every=2), Tracker(model, size=None, memory_every=2)
    for image, truth in clip[:2]:
        for each in (tracker, other):
            each.step(image, truth if each.memory_frames == 0 else None)
    with pytest.raises(InputError, match=message):
        tracker.step(*change(*clip[2]))
    for image, _ in clip[2:5]:
        after, expected = tracker.step(image), other.step(image)
        np.testing.assert_array_equal(after.probabilities, expected.probabilities)
        assert (after.frame_index, after.object_ids) == (expected.frame_index, expected.object_ids)


def test_a_first_frame_that_is_refused_fixes_no_size(model, clip):
    tracker = Tracker(model, size=None)
    with pytest.raises(MaskError, match="mask is 130x50"):
        tracker.step(clip[0][0], clip[0][1][:50])
    assert tracker.step(clip[0][0][:80], clip[0][1][:80]).frame_index == 0


@pytest.fixture
def as_it_is(monkeypatch):
    """Run a network's own methods, not those of a faster copy."""
    monkeypatch.setattr("twospeed.pipelines.tracker.optimised", lambda network, dtype: network)


def test_a_second_thread_is_refused(model, clip, as_it_is):
    inside, done = threading.Event(), threading.Event()

    class Slow(type(model)):
        def encode_key(self, frames):
            inside.set()
            assert done.wait(20)
            return super().encode_key(frames)

    slow = copy.deepcopy(model)
    slow.__class__ = Slow
    tracker = Tracker(slow, size=None)
    results = []
    thread = threading.Thread(target=lambda: results.append(tracker.step(*clip[0])))
    thread.start()
    try:
        assert inside.wait(20)
        with pytest.raises(InputError, match="this Tracker is used by another thread"):
            tracker.step(*clip[0])
    finally:
        done.set()
        thread.join()
    assert results[0].frame_index == 0
    assert tracker.step(clip[1][0]).frame_index == 1


@pytest.mark.parametrize("options", [
    {"memory_every": 2},
    {"memory_every": 2, "include_last": True},
    {"memory_every": 1, "max_memory_frames": 3},
    {"finetune": TrackerFineTuning(iterations=1, batch=1, crop=64)},
], ids=lambda options: ",".join(options))  # fmt: skip
def test_a_saved_tracker_continues_exactly(model, clip, options, tmp_path):
    straight = Tracker(model, size=64, **options)
    expected = [straight.step(image, truth if t == 0 else None).probabilities for t, (image, truth) in enumerate(clip)]
    first = Tracker(model, size=64, **options)
    for t, (image, truth) in enumerate(clip[:5]):
        first.step(image, truth if t == 0 else None)
    first.save_state(tmp_path / "state.safetensors")
    second = Tracker(model, size=64, **options)
    second.load_state(tmp_path / "state.safetensors")
    assert second.memory_frames == first.memory_frames
    for t, (image, _) in enumerate(clip[5:], start=5):
        result = second.step(image)
        assert result.frame_index == t
        np.testing.assert_array_equal(result.probabilities, expected[t])
    with pytest.raises(InputError, match="frame 8 is 100x96, the frames before it 130x96"):
        second.step(clip[0][0][:, :100])


def test_states_of_other_trackers_are_refused(model, clip, tmp_path):
    tracker = Tracker(model, size=64)
    tracker.step(*clip[0])
    path = tmp_path / "state.safetensors"
    tracker.save_state(path)
    torch.manual_seed(1)
    for other, message in (
        (Tracker(track_tiny(), size=64), "was written by a tracker with another network"),
        (Tracker(model, size=80), "with size=64, not 80"),
        (Tracker(model, size=64, memory_every=3), "with memory_every=5, not 3"),
    ):
        with pytest.raises(InputError, match=message):
            other.load_state(path)
        assert other.memory_frames == 0
    for name, content, message in (
        ("gone.safetensors", None, "no tracker state at"),
        ("cut.safetensors", path.read_bytes()[:2000], "cannot be read as a tracker state"),
        ("text.safetensors", b"hello", "cannot be read as a tracker state"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            tracker.load_state(tmp_path / name)
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="holds no tracker state"):
        tracker.load_state(tmp_path / "weights.safetensors")
    assert tracker.memory_frames == 1


@pytest.mark.parametrize(("height", "width", "options", "expected"), [
    (96, 64, {}, (96, 64)),
    (96, 64, {"upscale": True}, (720, 480)),
    (1080, 1920, {}, (480, 853)),
    (160, 284, {}, (320, 568)),
    (240, 432, {}, (480, 864)),
    (480, 854, {}, (480, 854)),
    (100, 20000, {"size": 96}, (13, 2715)),
    (1080, 1920, {"size": None}, (1080, 1920)),
])  # fmt: skip
def test_the_size_at_which_the_network_works(height, width, options, expected, as_it_is):
    """`size` on the shorter side, at most 4 size^2 pixels; small videos are enlarged at most twice, thumbnails not."""
    seen = []

    class Seeing(type(track_tiny())):
        def encode_key(self, frames):
            seen.append(frames.shape[-2:])
            raise InputError("enough")

    network = track_tiny()
    network.__class__ = Seeing
    with pytest.raises(InputError, match="enough"):
        Tracker(network, **options).step(np.zeros((height, width, 3), np.uint8), np.ones((height, width), np.uint8))
    assert seen == [tuple(-(-side // 16) * 16 for side in expected)]


def test_options_of_track_are_those_of_the_trackers():
    known = {name for kind in (Tracker, UnsupervisedTracker) for name in inspect.signature(kind).parameters}
    assert set(TrackOptions.__annotations__) == known - {"model_or_name", "finetune"}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Tracker("segment_nano"), "segment_nano is a network of the task 'segment', not one that tracks objects"),
    (lambda: Tracker(torch.nn.Linear(1, 1)), "Linear is not a network that tracks objects: it has no `similarity`"),
    (lambda: Tracker("slowfast_maskrcnn_1_1"), "finds objects without masks; use UnsupervisedTracker"),
    (lambda: Tracker(precision="fp16"), "precision is 'fp16'; choose 'fp32', 'bf16' or 'auto'"),
    (lambda: UnsupervisedTracker("segment_nano"), "network of the task 'segment'"),
    (lambda: Segmenter("track_tiny"), "track_tiny is a network of the task 'track', not one that labels every pixel"),
    (lambda: Segmenter(track_tiny()), "STCN is not a network that labels every pixel"),
    (lambda: classify("clip.mp4", "stcn"), "stcn is a network of the task 'track'"),
    (lambda: classify("clip.mp4", track_tiny()), "STCN is not a network that recognises the action in a clip"),
    (lambda: detect("clip.mp4", "stcn", boxes=[[0, 0, 9, 9]]), "stcn is a network of the task 'track'"),
    (lambda: track([], np.ones((9, 9), int), "track_tiny", merged=True), "merged is no option of Tracker"),
])  # fmt: skip
def test_a_network_of_another_job_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@contextmanager
def more_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(threads)


@pytest.fixture
def several_threads():
    with more_threads():
        yield


def frames_of(clip) -> list[Frame]:
    return [Frame(index, index / 10, image) for index, (image, _) in enumerate(clip)]


@pytest.mark.parametrize(
    "options", [{}, {"finetune": 2}, {"kernel_sigma": 7.0}, {"precision": "bf16"}, {"include_last": True}], ids=str
)
@pytest.mark.parametrize("name", ["track_tiny", "track_small", "stm"])
def test_a_whole_video_gives_what_its_frames_give_one_by_one(name, options, clip, several_threads):
    if name == "stm":  # random weights: all cells look alike, and which are among the best 20 is chance
        network, options = twospeed.create_model(name, None), {"top_k": None, **options}
    else:
        network = twospeed.create_model(name)
    one, whole = (Tracker(network, size=64, memory_every=2, device="cpu", finder=None, **options) for _ in range(2))
    found = list(whole.run(frames_of(clip), {0: clip[0][1], 5: clip[5][1]}, gone={3: [2]}))
    assert [frame.index for frame, _ in found] == list(range(len(clip)))
    for index, ((image, truth), (_, masks)) in enumerate(zip(clip, found, strict=True)):
        expected = one.step(image, truth if index in (0, 5) else None, gone=[2] if index == 3 else [])
        tolerance = 0.05 if "precision" in options else 1e-4
        np.testing.assert_allclose(masks.probabilities, expected.probabilities, atol=tolerance)
        assert masks.frame_index == index


def clip_file(tmp_path, clip) -> Path:
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for image, _ in clip:
            writer.write(image)
    return tmp_path / "clip.mp4"


def test_frames_of_a_file_are_looked_at_while_those_before_are_tracked(model, clip, tmp_path, monkeypatch):
    looked_at: list[int] = []
    look = Tracker.look
    monkeypatch.setattr(
        Tracker, "look", lambda self, image: looked_at.append(threading.get_ident()) or look(self, image)
    )
    with open_video(clip_file(tmp_path, clip)) as frames, more_threads():
        results = Tracker(model, size=64, device="cpu").run(frames, clip[0][1])
        next(results)
        results.close()
    assert looked_at
    assert threading.get_ident() not in looked_at


def test_what_was_seen_by_another_network_is_not_used(model, clip):
    image, truth = clip[0]
    plain, seeing = (Tracker(model, size=64, device="cpu", finetune=2) for _ in range(2))
    seen = seeing.look(image)  # before the network learns the first masks
    expected, found = plain.step(image, truth), seeing.step(image, truth, seen=seen)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    expected, found = plain.step(clip[1][0]), seeing.step(clip[1][0], seen=seen)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_all_frames_before_the_source_fails_are_tracked(model, clip, several_threads):
    class Frames(list[Frame]):
        def __iter__(self):
            yield from super().__iter__()
            raise VideoError("clip.mp4: is cut off after frame 4")

    seen = []
    tracker = Tracker(model, size=64, device="cpu")
    with pytest.raises(VideoError, match="cut off"):
        seen.extend(frame.index for frame, _ in tracker.run(Frames(frames_of(clip)[:5]), clip[0][1]))
    assert seen == list(range(5))


def test_frames_that_are_made_one_by_one_are_taken_one_by_one(model, clip, several_threads):
    memory = np.empty_like(clip[0][0])
    taken = []

    def frames():
        for frame in frames_of(clip):
            memory[...] = frame.image
            taken.append(frame.index)
            yield Frame(frame.index, frame.time_s, memory)

    tracker, copies = (Tracker(model, size=64, device="cpu") for _ in range(2))
    for count, (_, found) in enumerate(tracker.run(frames(), clip[0][1]), 1):
        assert len(taken) == count
        image, truth = clip[count - 1]
        assert (found.labels == copies.step(image, truth if count == 1 else None).labels).mean() > 0.99
