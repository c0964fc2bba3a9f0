"""`Segmenter` and `twospeed.segment` as their users meet them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import twospeed
from twospeed.errors import InputError, VideoError
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.network import GSVNet
from twospeed.pipelines.segment import NEVER, Every, Segmenter, Situation, class_labels, on_drift, segment
from twospeed.results import Frame, LabelMap


class Counted(nn.Module):
    """An image network of three classes, red, green and blue, that counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return F.avg_pool2d(image, 4) / 255


def video_network() -> GSVNet:
    torch.manual_seed(0)
    return GSVNet(Counted(), FlowLight(), 3)


def random_image(height: int = 72, width: int = 100) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = 200
    image[:, width // 2 :, 2] = 200
    return image


def test_labels_scores_and_keyframes():
    segmenter = Segmenter(video_network(), keyframe_every=3)
    results = [segmenter.step(random_image(), time_s=i / 10) for i in range(7)]
    assert [r.is_keyframe for r in results] == [True, False, False, True, False, False, True]
    assert [r.frame_index for r in results] == list(range(7))
    assert results[3].time_s == 0.3
    assert results[0].labels.shape == (72, 100)
    assert results[0].labels.dtype == np.uint8
    assert results[0].scores.shape == (3, 9, 12)
    assert (results[0].labels[:, :45] == 0).all()
    assert (results[0].labels[:, 55:] == 2).all()
    assert segmenter.model.keyframe_network.calls == 3
    assert "72" in repr(results[0])


def test_labels_are_the_argmax_of_the_resized_scores():
    segmenter = Segmenter(video_network())
    noise = np.random.default_rng(0).integers(0, 256, (2, 90, 131, 3), dtype=np.uint8)
    for image in noise:
        result = segmenter.step(image)
        scores = F.interpolate(torch.from_numpy(result.scores)[None], (90, 131), mode="bilinear", align_corners=True)
        assert (scores[0].argmax(0).numpy() == result.labels).mean() > 0.999


def test_propagation_is_what_the_network_says():
    model = video_network()
    segmenter = Segmenter(model, keyframe_every=2)
    images = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    first, second = segmenter.step(images[0]), segmenter.step(images[1])
    frames = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = model.propagate(torch.from_numpy(first.scores)[None], frames[:1], frames[1:])
    np.testing.assert_allclose(second.scores, expected[0], atol=1e-5)


def test_floats_tensors_and_reset():
    segmenter = Segmenter(video_network(), 2)
    image = random_image(64, 64)
    a = segmenter.step(image)
    segmenter.reset()
    b = segmenter.step(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
    assert b.is_keyframe
    assert b.frame_index == 0
    assert (a.labels == b.labels).mean() > 0.99
    with pytest.raises(twospeed.InputError, match="give uint8"):
        segmenter.step(np.zeros((64, 64)))
    with pytest.raises(twospeed.InputError, match="a frame of 64x5 is too small"):
        segmenter.step(np.zeros((5, 64, 3), np.uint8))


def test_a_frame_of_another_size_starts_anew():
    segmenter = Segmenter(video_network(), 4)
    assert segmenter.step(random_image()).is_keyframe
    assert not segmenter.step(random_image()).is_keyframe
    changed = segmenter.step(random_image(48, 64))
    assert changed.is_keyframe
    assert changed.labels.shape == (48, 64)
    assert changed.frame_index == 2


def test_policies():
    assert [Every(3)(Situation(i, 9.0)) for i in (1, 2, 3)] == [False, False, True]
    policy = on_drift(1.0, at_most_every=2, at_least_every=5)
    assert [policy(Situation(*s)) for s in ((1, 9.0), (2, 0.5), (2, 1.5), (5, 0.0))] == [False, False, True, True]
    for bad in (lambda: Every(0), lambda: on_drift(0), lambda: on_drift(1, at_most_every=9, at_least_every=3)):
        with pytest.raises(twospeed.InputError, match="give"):
            bad()


def test_drift_spends_keyframes_on_cuts():
    segmenter = Segmenter(video_network(), on_drift(0.5))
    still = [segmenter.step(random_image()).is_keyframe for _ in range(4)]
    assert still[0]
    cut = np.random.default_rng(0).integers(0, 256, (72, 100, 3), dtype=np.uint8)
    assert segmenter.step(cut).is_keyframe


def test_a_fixed_interval_computes_no_drift():
    """It would cost another warp, and a wait for the device, at every step."""
    seen = []

    class Watched(Every):
        def __call__(self, situation: Situation) -> bool:
            seen.append(situation)
            return super().__call__(situation)

    segmenter = Segmenter(video_network(), Watched(4))
    for frame in np.random.default_rng(0).integers(0, 256, (4, 72, 100, 3), dtype=np.uint8):
        segmenter.step(frame)
    assert [(s.since_keyframe, s.drift) for s in seen] == [(1, 0), (2, 0), (3, 0)]


def test_steady_drift_wastes_no_step():
    frames = np.random.default_rng(0).integers(0, 256, (13, 72, 100, 3), dtype=np.uint8)
    seen = []
    watching = Segmenter(video_network(), lambda situation: bool(seen.append(situation)))
    for frame in frames[:3]:
        watching.step(frame)
    pace = seen[1].drift
    assert [s.drift for s in seen] == pytest.approx([0, pace, 2 * pace, 2 * pace], rel=0.2)

    model = video_network()
    segmenter = Segmenter(model, on_drift(3.5 * pace))
    steps, step = [], segmenter.model.step
    segmenter.model.step = lambda *arguments: steps.append(1) or step(*arguments)
    keyframes = [segmenter.step(frame).is_keyframe for frame in frames]
    assert keyframes == [True, False, False, False] * 3 + [True]
    assert len(steps) == 9, "keyframes were foreseen"


@pytest.mark.parametrize("policy", [4, NEVER])
def test_drift_is_not_computed_where_no_policy_looks_at_it(monkeypatch, policy):
    def refuse(*_):
        raise AssertionError("a policy of the interval needs no drift")

    monkeypatch.setattr("twospeed.ops.on_torch.backward_warp", refuse)
    segmenter = Segmenter(video_network(), policy)
    assert [segmenter.step(random_image()).is_keyframe for _ in range(4)] == [True, False, False, False]
    watching = Segmenter(video_network(), on_drift(1.0))
    watching.step(random_image())
    with pytest.raises(AssertionError):
        watching.step(random_image())


def test_any_image_network_labels_every_frame():
    network = Counted()
    results = list(segment([Frame(i, i / 5, random_image()) for i in range(3)], network))
    assert [r.is_keyframe for r in results] == [True] * 3
    assert network.calls == 3
    assert results[2].scores.shape == (3, 9, 12)
    expected = F.interpolate(torch.from_numpy(random_image()).permute(2, 0, 1)[None].float().div(255), scale_factor=1)[
        0
    ].argmax(0)
    assert (results[0].labels == expected.numpy()).mean() > 0.95


def test_memory_does_not_grow_with_the_video():
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    held = {}
    for result in segment((Frame(i, i / 5, noise[i % 3]) for i in range(60)), video_network(), keyframe_every=4):
        if result.frame_index in (9, 57):  # both one after a keyframe
            gc.collect()
            tensors = [x for x in gc.get_objects() if type(x) is Tensor and x.layout is torch.strided]
            held[result.frame_index] = sum(x.untyped_storage().nbytes() for x in tensors)
    assert 0 < held[57] < 2 * held[9]  # intervals that are under way hold more or less at a time


def test_names_of_classes():
    assert class_labels(19).names[0] == "road"
    assert class_labels(11).names[8] == "car"
    assert class_labels(4).names == ("class 0", "class 1", "class 2", "class 3")
    segmenter = Segmenter(video_network(), labels=LabelMap(("a", "b")))
    with pytest.raises(twospeed.InputError, match="2 class names were given, the network has 3 classes"):
        segmenter.step(random_image())


def test_without_weights_a_name_says_so():
    with pytest.raises(
        twospeed.WeightsUnavailable,
        match=r"gsvnet_swiftnet_r18 has no weights that a program can download; pass weights=FILE, from https",
    ):
        Segmenter("gsvnet_swiftnet_r18")
    assert twospeed.Segmenter("swiftnet_r18", weights=None).step(random_image(64, 64)).labels.shape == (64, 64)


def drive(frames: int, *, change_at: int | None = None) -> list[Frame]:
    """Frames of smooth noise that moves; of another size from `change_at` on."""
    rng = np.random.default_rng(2)
    wide = F.interpolate(torch.from_numpy(rng.random((1, 3, 20, 60), np.float32)), (120, 360), mode="bicubic")
    picture = (wide[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    sizes = [(72, 100) if change_at is None or i < change_at else (80, 96) for i in range(frames)]
    return [Frame(i, i / 10, picture[5 : 5 + h, 3 * i : 3 * i + w].copy()) for i, (h, w) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("every", "begun", "change_at"), [(4, 0, None), (3, 2, None), (1, 0, 7), (4, 1, 6), (16, 0, 18)]
)
def test_intervals_side_by_side_give_what_steps_give(every, begun, change_at):
    frames = drive(23, change_at=change_at)
    network = twospeed.create_model("segment_nano", None)
    plain, many = Segmenter(network, every, device="cpu"), Segmenter(network, every, device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for frame in frames[:begun]:
            many.step(frame.image)
        found = list(many.steps(frames[begun:]))
        assert torch.get_num_threads() == 3
        after = many.step(frames[-1].image)
    finally:
        torch.set_num_threads(threads)
    expected = [plain.step(frame.image, time_s=frame.time_s) for frame in frames]
    assert [frame.index for frame, _ in found] == list(range(begun, 23))
    for (_, result), wanted in zip(found, expected[begun:], strict=True):
        assert (result.frame_index, result.time_s) == (wanted.frame_index, wanted.time_s)
        assert (result.is_keyframe, result.classes) == (wanted.is_keyframe, wanted.classes)
        np.testing.assert_allclose(result.scores, wanted.scores, atol=1e-4)
        assert (result.labels == wanted.labels).mean() > 0.999
    wanted = plain.step(frames[-1].image)
    assert (after.frame_index, after.is_keyframe) == (23, wanted.is_keyframe)
    np.testing.assert_allclose(after.scores, wanted.scores, atol=1e-4)


class Noted(list[Frame]):
    """Frames that note which of them were taken."""

    def __init__(self, frames):
        super().__init__(frames)
        self.taken: list[int] = []

    def __iter__(self):
        for frame in super().__iter__():
            self.taken.append(frame.index)
            yield frame


def test_steps_computes_intervals_at_the_same_time_and_reads_few_frames_in_advance(two_threads):
    frames = Noted(drive(20))
    results = Segmenter(twospeed.create_model("segment_nano", None), 2, device="cpu").steps(frames)
    next(results)
    assert 4 <= len(frames.taken) <= 8  # more than one interval, and not all
    results.close()


@pytest.mark.parametrize(("kind", "message"), [("small", "8 pixels"), ("grey", "float64 of shape")])
def test_steps_of_a_bad_frame_gives_those_before_and_then_the_error(kind, message, two_threads):
    frames = drive(9)
    frames[5] = Frame(5, 0.5, np.zeros((4, 4, 3), np.uint8) if kind == "small" else np.zeros((72, 100)))
    segmenter = Segmenter(twospeed.create_model("segment_nano", None), 4, device="cpu")
    seen = []
    with pytest.raises(InputError, match=message):
        seen.extend(frame.index for frame, _ in segmenter.steps(frames))
    assert seen == list(range(5))


@pytest.mark.parametrize("case", ["drift", "own network", "one by one"])
def test_steps_runs_frame_by_frame_where_intervals_depend_on_each_other(case, two_threads):
    network = Counted() if case == "own network" else twospeed.create_model("segment_nano", None)
    policy = on_drift(1.0) if case == "drift" else 2
    frames = Noted(drive(6))
    results = Segmenter(network, policy, device="cpu").steps(iter(frames) if case == "one by one" else frames)
    for count in range(1, 7):
        next(results)
        assert len(frames.taken) == count


def test_steps_gives_all_frames_before_the_source_fails(two_threads):
    class Frames(list[Frame]):
        def __iter__(self):
            yield from super().__iter__()
            raise VideoError("clip.mp4: is cut off after frame 6")

    segmenter = Segmenter(twospeed.create_model("segment_nano", None), 4, device="cpu")
    seen = []
    with pytest.raises(VideoError, match="cut off"):
        seen.extend(frame.index for frame, _ in segmenter.steps(Frames(drive(7))))
    assert seen == list(range(7))
