import wave

import cv2
import numpy as np
import pytest
import torch

import twospeed
from tests.models.slowfast.test_network import tiny
from twospeed.data.benchmarks.video_lists import LabelledVideo
from twospeed.evaluation.recognition import score_videos
from twospeed.pipelines.action_views import UniformViews, prepare, sliding_views
from twospeed.pipelines.classify import Classifier, classify, position_average, videos_in
from twospeed.transforms.colour import normalise
from twospeed.transforms.spatial import view_crops
from twospeed.video.reader import read_frames
from twospeed.video.sampling import ClipShape, decoded_short_side, uniform_clip
from twospeed.video.writer import VideoWriter

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


class ColourNetwork(torch.nn.Module):
    """Knows three classes, the primary colours: the logits are the mean of each channel, at two positions."""

    def __init__(self, frames=8, stride=2, gain=4.0):
        super().__init__()
        self.frames, self.frame_stride, self.num_classes, self.gain = frames, stride, 3, gain
        self.clips_seen = 0

    def forward(self, clip):
        assert clip.shape[1:3] == (3, self.frames)
        self.clips_seen += len(clip)
        return self.gain * clip.mean(dim=(2, 3, 4))[:, None].expand(-1, 2, -1)


def write_colours(path, *parts, rate=30, size=(48, 64)):
    """A video of plain colours, each for so many frames."""
    with VideoWriter(path, rate, quality=10) as writer:
        for name, frames in parts:
            image = np.empty((*size, 3), np.uint8)
            image[:] = COLOURS[name]
            for _ in range(frames):
                writer.write(image)
    return path


def write_ramp(folder, frames):
    """Image i is grey of value 2 i, so that a clip tells which frames it is made of."""
    folder.mkdir()
    for i in range(frames):
        cv2.imwrite(str(folder / f"{i:05d}.png"), np.full((48, 64, 3), 2 * i, np.uint8))
    return folder


def greys(clip):
    """Undo the normalisation of a ramp's clip: frame indices (T,)."""
    values = (clip[0].mean(dim=(0, 2, 3)) * 0.225 + 0.45) * 255 / 2
    return values.round().int().tolist()


LABELS = list(COLOURS)


def test_the_likeliest_action_comes_first(tmp_path):
    scores = classify(write_colours(tmp_path / "v.mp4", ("green", 60)), ColourNetwork(), labels=LABELS)
    assert scores.top(3)[0][0] == "green"
    assert scores.top(1)[0][1] > 0.9
    assert scores.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert scores.view_probabilities.shape == (10, 3)
    assert [span.label for span in scores.timeline] == ["green"]


def test_ten_clips_of_three_crops_see_the_frames_of_the_authors_test(tmp_path):
    path = write_ramp(tmp_path / "ramp", 100)
    sampling = ClipShape(8, 4)
    views = list(UniformViews(path, [sampling], 10, 3, pad="repeat_last"))
    assert [view.number for view in views] == list(range(10))
    for view in views:
        assert view.clip.shape == (3, 3, 8, 256, 256)
        indices = uniform_clip(view.number, 10, 100, 8, 4, 30.0)
        assert greys(view.clip) == indices.tolist()
        assert view.start_s == pytest.approx(indices[0] / 30, abs=1e-6)
    network = ColourNetwork()
    classify(path, network, clips=4, crops=3)
    assert network.clips_seen == 12


def test_crops_lie_along_the_longer_side():
    frames = torch.zeros(2, 60, 120, 3, dtype=torch.uint8)
    frames[:, :, :40, 0], frames[:, :, 40:80, 1], frames[:, :, 80:, 2] = 255, 255, 255
    three = prepare(frames, ClipShape(2, 1, short_side=64, crop=64), 3)
    assert three.mean(dim=(2, 3, 4)).argmax(dim=1).tolist() == [0, 1, 2]
    assert prepare(frames, ClipShape(2, 1, short_side=64, crop=64), 1).mean(dim=(2, 3, 4)).argmax(dim=1).tolist() == [1]
    upright = prepare(frames.transpose(1, 2), ClipShape(2, 1, short_side=64, crop=64), 3)
    assert upright.mean(dim=(2, 3, 4)).argmax(dim=1).tolist() == [0, 1, 2]


def test_values_are_normalised_in_the_order_the_network_expects():
    frames = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    frames[..., 2] = 0
    sampling = ClipShape(1, 1, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.25), order="bgr", short_side=64, crop=64)
    assert prepare(frames, sampling, 1)[0, :, 0, 0, 0].tolist() == pytest.approx([0.0, 1.5, 1.0])


def test_the_evaluation_of_kinetics_gives_the_numbers_that_users_get(tmp_path):
    path = write_colours(tmp_path / "v.mp4", ("red", 30), ("blue", 40), size=(48, 80))
    network = tiny(frames=8, frame_stride=2)
    measured = score_videos(twospeed.Classifier(network, 3, 3, device="cpu"), [LabelledVideo(path, 2)])
    used = classify(path, network, clips=3, crops=3, device="cpu")
    assert np.abs(used.probabilities - measured.stacked()[0]).max() < 1e-6
    rows = []
    for number in range(3):  # views by the training code's functions, through the network as it was trained
        indices = uniform_clip(number, 3, 70, 8, 2, 30.0)
        images = read_frames(path, indices, short_side=decoded_short_side(48, 256))
        frames = torch.from_numpy(images).permute(3, 0, 1, 2)
        crops = [crop.frames(frames) for crop in view_crops(*frames.shape[-2:], short_side=256, crop=256, crops=3)]
        shape = ClipShape(frames=8, stride=2)
        views = normalise(torch.stack(crops), shape.mean, shape.std, order=shape.order, channel_dim=1)
        with torch.inference_mode():
            rows.append(position_average(network(views), "probabilities"))
    assert np.abs(used.probabilities - torch.cat(rows).mean(dim=0).numpy()).max() < 1e-4


def test_position_average_follows_the_authors():
    logits = torch.tensor([[[4.0, 0.0], [0.0, 1.0]]])
    softmax = torch.softmax(logits[0], dim=1).mean(dim=0)
    assert torch.allclose(position_average(logits, "probabilities")[0], softmax)
    assert torch.allclose(position_average(logits, "logits")[0], torch.softmax(torch.tensor([2.0, 0.5]), 0))


def test_a_network_of_ones_own_computes_in_bfloat16_where_that_is_asked_for(tmp_path):
    class Convolving(ColourNetwork):
        def __init__(self):
            super().__init__()
            self.conv, self.seen = torch.nn.Conv3d(3, 3, 1), []

        def forward(self, clip):
            self.seen.append(self.conv(clip).dtype)
            return super().forward(clip)

    path = write_colours(tmp_path / "red.mp4", ("red", 20))
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        network = Convolving()
        classify(path, network, clips=1, crops=1, labels=LABELS, precision=precision)
        assert network.seen == [dtype]


def test_a_timeline_finds_when_each_action_starts_and_ends(tmp_path):
    path = write_colours(tmp_path / "v.mp4", ("red", 90), ("green", 60), ("red", 60))
    scores = classify(path, ColourNetwork(), crops=1, timeline=True, every_s=0.2, labels=LABELS)
    assert [span.label for span in scores.timeline] == ["red", "green", "red"]
    found = [(span.start_s, span.end_s) for span in scores.timeline]
    assert np.allclose(found, [(0, 3), (3, 5), (5, 7)], atol=0.25)
    assert scores.timeline[-1].end_s == pytest.approx(7, abs=0.1)
    assert np.allclose(np.diff(scores.view_times_s[:-1]), 0.2, atol=0.04)


def test_a_timeline_with_a_threshold_may_overlap_and_leave_gaps(tmp_path):
    path = write_colours(tmp_path / "v.mp4", ("red", 60), ("green", 60))
    soft = {"crops": 1, "timeline": True, "every_s": 0.25, "labels": LABELS}
    both = classify(path, ColourNetwork(gain=0.2), threshold=0.05, **soft)
    assert {span.label for span in both.timeline} == set(LABELS)
    none = classify(path, ColourNetwork(gain=0.2), threshold=0.999, **soft)
    assert none.timeline == ()


def test_windows_slide_evenly_and_the_last_ends_with_the_video(tmp_path):
    path = write_ramp(tmp_path / "ramp", 100)
    sampling = ClipShape(8, 4)  # 32 frames, 1.067 s
    views = list(sliding_views(path, [sampling], 0.5, 1))
    starts = [greys(view.clip)[0] for view in views]
    assert starts == [0, 15, 30, 45, 60, 68]
    assert greys(views[0].clip) == uniform_clip(0, 1, 100, 8, 4, 30.0).tolist()
    assert greys(views[-1].clip)[-1] == 99


def test_a_video_shorter_than_a_clip_repeats_its_last_frame_or_is_refused(tmp_path):
    path = write_ramp(tmp_path / "short", 6)
    (view,) = UniformViews(path, [ClipShape(8, 4)], 1, 1, pad="repeat_last")
    assert greys(view.clip)[-3:] == [5, 5, 5]
    (window,) = sliding_views(path, [ClipShape(8, 4)], 1.0, 1)
    assert greys(window.clip)[-3:] == [5, 5, 5]
    with pytest.raises(twospeed.ClipTooShort, match=r"8 frames at stride 2 spans 16 frames, the video has 6"):
        classify(path, ColourNetwork(), pad="error")


def test_an_ensemble_averages_probabilities_whatever_the_clips_of_its_members(tmp_path):
    path = write_colours(tmp_path / "v.mp4", ("red", 40), ("blue", 40))
    a, b = ColourNetwork(8, 2, gain=1.0), ColourNetwork(4, 8, gain=3.0)
    one, other, both = (classify(path, m, clips=3, crops=1, labels=LABELS) for m in (a, b, [a, b]))
    assert np.allclose(both.probabilities, (one.probabilities + other.probabilities) / 2, atol=1e-6)
    assert np.allclose(both.view_times_s, one.view_times_s)
    timed = classify(path, [a, b], crops=1, timeline=True, every_s=0.5, labels=LABELS)
    assert timed.timeline[0].label == "red"


def test_an_ensemble_needs_one_set_of_classes():
    other = ColourNetwork()
    other.num_classes = 4
    with pytest.raises(twospeed.InputError, match="averaged over the same classes"):
        Classifier([ColourNetwork(), other])


def test_a_broken_video_among_many_is_reported_and_the_others_are_finished(tmp_path):
    good = write_colours(tmp_path / "good.mp4", ("red", 20))
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is not a video" * 50)
    later = write_colours(tmp_path / "later.mp4", ("blue", 20))
    classifier = Classifier(ColourNetwork(), clips=2, crops=1, labels=LABELS)
    results = list(classifier.classify_many([good, bad, tmp_path / "absent.mp4", later]))
    assert [source for source, _ in results] == [good, bad, tmp_path / "absent.mp4", later]
    assert results[0][1].top(1)[0][0] == "red"
    assert isinstance(results[1][1], twospeed.VideoError)
    assert "absent.mp4" in str(results[2][1])
    assert results[3][1].top(1)[0][0] == "blue"
    assert classifier.frames_seen == 2 * 2 * 8


def test_sound_without_image_is_refused(tmp_path):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    for timeline in (False, True):
        with pytest.raises(twospeed.VideoError, match=r"sound\.wav"):
            classify(tmp_path / "sound.wav", ColourNetwork(), timeline=timeline)


def test_a_changing_image_size_is_refused_clearly(tmp_path):
    for i in range(20):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), np.zeros((48, 64 if i < 10 else 80, 3), np.uint8))
    for timeline in (False, True):
        with pytest.raises(twospeed.VideoError, match="80x48"):
            classify(tmp_path, ColourNetwork(), clips=2, timeline=timeline)


def test_a_stream_is_classified_by_windows(tmp_path):
    path = write_colours(tmp_path / "v.mkv", ("red", 40), ("green", 40))
    with path.open("rb") as stream:
        scores = classify(stream, ColourNetwork(), crops=1, every_s=0.5, labels=LABELS)
    assert [span.label for span in scores.timeline] == ["red", "green"]


def test_names_come_from_the_catalogue_a_file_or_numbers(tmp_path):
    path = write_colours(tmp_path / "v.mp4", ("blue", 20))
    assert classify(path, ColourNetwork(), clips=1).top(1)[0][0] == "class 2"
    (tmp_path / "names.txt").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    assert classify(path, ColourNetwork(), clips=1, labels=tmp_path / "names.txt").top(1)[0][0] == "blau"
    (tmp_path / "names.json").write_text('{"b": 2, "r": 0, "g": 1}')
    assert classify(path, ColourNetwork(), clips=1, labels=tmp_path / "names.json").labels == ("r", "g", "b")
    with pytest.raises(twospeed.InputError, match="kinetics400 has 400 labels, ColourNetwork has 3 classes"):
        classify(path, ColourNetwork(), labels="kinetics400")
    with pytest.raises(twospeed.InputError, match=r"no list of labels at .*absent\.txt"):
        classify(path, ColourNetwork(), labels=tmp_path / "absent.txt")
    (tmp_path / "gap.txt").write_text("a\n\nc\n")
    with pytest.raises(twospeed.InputError, match="line 2 is empty"):
        classify(path, ColourNetwork(), labels=tmp_path / "gap.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 0}, "clips=0"),
        ({"crops": 2}, "crops=2"),
        ({"every_s": 0.0}, "every_s=0.0"),
        ({"threshold": 2.0}, "threshold=2.0"),
        ({"smooth": 2}, "smooth=2"),
        ({"pad": "zeros"}, "pad='zeros'"),
        ({"weights": [None, None]}, "1 networks with 2 weights"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(options, message):
    with pytest.raises(twospeed.InputError, match=message):
        classify("absent.mp4", ColourNetwork(), **options)


def test_networks_for_other_tasks_are_refused():
    with pytest.raises(twospeed.InputError, match="network of the task 'track', not one that recognises"):
        Classifier("track_tiny", weights=None)
    with pytest.raises(
        twospeed.InputError, match="Linear is not a network that recognises the action in a clip: it has no `frames`"
    ):
        Classifier(torch.nn.Linear(2, 2))


def test_a_folder_of_videos_is_its_videos_and_a_folder_of_images_is_one(tmp_path):
    videos, images = tmp_path / "videos", tmp_path / "images"
    (videos / "deeper").mkdir(parents=True)
    images.mkdir()
    (tmp_path / "nothing").mkdir()
    (videos / "twospeed_projects").mkdir()
    for name in ("b.mp4", "a.mkv", "notes.txt", "deeper/c.MP4", "._b.mp4", "twospeed_projects/small.mp4"):
        (videos / name).touch()
    (images / "0.png").touch()
    assert videos_in([videos]) == [videos / "a.mkv", videos / "b.mp4", videos / "deeper/c.MP4"]
    assert videos_in([images, videos / "notes.txt"]) == [images, videos / "notes.txt"]
    with pytest.raises(twospeed.VideoError, match="is empty"):
        videos_in([tmp_path / "nothing"])


MEASURE = """
import resource, sys
import torch
from tests.pipelines.test_classify import ColourNetwork
from twospeed.pipelines.classify import classify
torch.set_num_threads(1)
scores = classify(sys.argv[1], ColourNetwork(), crops=1, timeline=True, every_s=2.0)
print(len(scores.view_times_s), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    import subprocess
    import sys

    peaks = []
    for seconds in (10, 150):
        path = write_colours(tmp_path / f"{seconds}.mp4", ("red", 30 * seconds))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, timeout=280
        )
        windows, kilobytes = map(int, done.stdout.split())
        assert abs(windows - seconds / 2) <= 1
        peaks.append(kilobytes)
    assert peaks[1] - peaks[0] < 20_000, peaks


@pytest.mark.slow
def test_real_clips(clips):
    network = tiny(frames=8, frame_stride=4)
    classifier = Classifier(network, clips=2, crops=3)
    for path, result in classifier.classify_many(videos_in([clips])):
        assert not isinstance(result, Exception), path
        assert result.probabilities.sum() == pytest.approx(1, abs=1e-4)
