"""Who does what, keyframe by keyframe: which frames are seen, whose boxes, which people, what is refused."""

import json

import cv2
import numpy as np
import pytest
import torch

import twospeed
from tests.video.footage import LOSSLESS, film, numbered
from twospeed.errors import CheckpointError, InputError, VideoError, WeightsUnavailable
from twospeed.output.action_overlay import between
from twospeed.pipelines import person_boxes
from twospeed.pipelines.detect import Detector
from twospeed.pipelines.people import PersonLinker
from twospeed.pipelines.person_boxes import given_boxes
from twospeed.results import ActionBoxes
from twospeed.video.sampling import keyframe_clip

LEFT, RIGHT = (2.0, 4.0, 40.0, 44.0), (50.0, 4.0, 90.0, 44.0)
SIZE = (48, 96)
MOVED = np.array([3, 0, 3, 0])


class Watcher(torch.nn.Module):
    """Remembers the clips and boxes that it is given; its logits are the boxes themselves."""

    frames, frame_stride, num_classes = 4, 3, 4

    def __init__(self):
        super().__init__()
        self.clips, self.boxes = [], []

    def forward(self, clip, boxes):
        self.clips.append(clip)
        self.boxes.append(boxes)
        return boxes[0].float() / 10


class Wide(Watcher):
    """Sees a longer clip, for other classes."""

    frames, num_classes = 6, 5


def shades(path, count=90, rate=30):
    """A video whose frame i is grey of 2 i + 20."""
    return film(path, [np.full((*SIZE, 3), 2 * i + 20, np.uint8) for i in range(count)], rate=rate, **LOSSLESS)


def frames_seen(clip):
    """Indices of a clip of `shades`."""
    grey = (clip[0].mean(dim=(0, 2, 3)) * 0.225 + 0.45) * 255
    return ((grey - 20) / 2).round().int().tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return shades(tmp_path_factory.mktemp("video") / "clip.mp4")


def test_the_clip_around_each_keyframe_is_the_authors(clip):
    watcher = Watcher()
    results = list(Detector(watcher, [LEFT], 1.0, short_side=48).detect(clip))
    assert [result.time_s for result in results] == [0.0, 1.0, 2.0]
    for seen, centre in zip(watcher.clips, (0, 30, 60), strict=True):
        assert seen.shape == (1, 3, 4, 48, 96)
        assert frames_seen(seen) == keyframe_clip(centre, 4, 3, 90).tolist()


def test_every_keyframe_sees_the_same_whatever_their_distance(clip):
    apart, close = Watcher(), Watcher()
    times = [result.time_s for result in Detector(apart, [LEFT], 0.8, short_side=48).detect(clip)]
    list(Detector(close, [LEFT], 0.1, short_side=48).detect(clip))
    assert len(close.clips) == 30
    assert times == pytest.approx([0, 0.8, 1.6, 2.4])
    for number, seen in enumerate(apart.clips):
        assert torch.equal(seen, close.clips[8 * number])
    assert frames_seen(close.clips[-1]) == [81, 84, 87, 89]  # behind the end the last frame is repeated


def test_boxes_are_scaled_to_the_networks_pixels_and_scores_are_sigmoids(clip):
    watcher = Watcher()
    result = next(Detector(watcher, [LEFT], short_side=96).detect(clip))
    assert watcher.clips[0].shape[-2:] == (96, 192)
    assert watcher.boxes[0][0].tolist() == [[4, 8, 80, 88]]
    assert result.boxes_xyxy.tolist() == [list(LEFT)]
    assert np.allclose(result.action_scores, torch.sigmoid(torch.tensor([[0.4, 0.8, 8, 8.8]])).numpy())
    assert result.labels == ("class 0", "class 1", "class 2", "class 3")


def test_scores_are_averaged_over_networks_sizes_and_mirrored_clips(clip):
    long = Wide()
    long.num_classes = 4
    watchers = [Watcher(), long]
    detector = Detector(watchers, {1.0: [LEFT]}, scales=(48, 96), flip=True)
    (result,) = detector.detect(clip)
    assert detector.actions.passes == 8
    for watcher, count in zip(watchers, (4, 6), strict=True):
        assert [seen.shape[-2:] for seen in watcher.clips] == [(48, 96)] * 2 + [(96, 192)] * 2
        plain, mirrored = watcher.clips[:2]
        assert torch.equal(mirrored, plain.flip(-1))
        assert frames_seen(plain) == keyframe_clip(30, count, 3, 90).tolist()
        found = [boxes[0][0].tolist() for boxes in watcher.boxes]
        assert found == [[2, 4, 40, 44], [55, 4, 93, 44], [4, 8, 80, 88], [111, 8, 187, 88]]
    every = torch.cat([boxes[0] for watcher in watchers for boxes in watcher.boxes])
    assert np.allclose(result.action_scores[0], torch.sigmoid(every / 10).mean(0).numpy(), atol=1e-6)


def test_each_size_is_scaled_from_the_source(tmp_path):
    """Not from another size: an ensemble gives the mean of what its sizes give alone."""
    source = numbered(tmp_path / "n.mp4", 40, size=(64, 96))

    class Mean(Watcher):
        def forward(self, clip, boxes):
            return clip[..., ::3, ::5].mean(dim=(0, 2, 3, 4)).repeat(1, 2)[:, :4] + clip[0, :, :, 5, 7].std()

    def scores(**options):
        return next(Detector(Mean(), [LEFT], **options).detect(source)).action_scores

    alone = [scores(short_side=side) for side in (48, 80)]
    assert np.abs(alone[0] - alone[1]).max() > 1e-5
    assert np.allclose(scores(scales=(48, 80)), np.mean(alone, axis=0), atol=1e-6)


def test_every_frame_is_handed_over_once_even_behind_the_last_keyframe(clip):
    seen = []
    list(Detector(Watcher(), {0.5: [LEFT]}, short_side=48).detect(clip, seen.append))
    assert [frame.index for frame in seen] == list(range(90))


def test_a_folder_of_images_has_thirty_a_second(tmp_path):
    for i in range(45):
        cv2.imwrite(str(tmp_path / f"{i:03d}.png"), np.full((*SIZE, 3), 2 * i + 20, np.uint8))
    watcher = Watcher()
    results = list(Detector(watcher, [LEFT], short_side=48).detect(tmp_path))
    assert [result.time_s for result in results] == [0, 1]
    assert frames_seen(watcher.clips[1]) == keyframe_clip(30, 4, 3, 45).tolist()


def test_boxes_with_times_are_the_keyframes_and_people_keep_their_numbers(clip):
    boxes = {0.5: [(*LEFT, 0.9)], 1.5: [(*RIGHT, 0.95), (*LEFT, 0.85), (*LEFT, 0.79)], 1.6: [LEFT], 2.5: [RIGHT]}
    results = list(twospeed.detect(clip, Watcher(), boxes, short_side=48))
    assert [result.time_s for result in results] == [0.5, 1.5, 2.5]  # 1.6 comes too soon after 1.5
    assert [result.track_ids for result in results] == [(1,), (2, 1), (2,)]
    assert results[1].person_scores.tolist() == pytest.approx([0.95, 0.85])


def test_keyframes_without_people_are_empty_results(clip):
    results = list(twospeed.detect(clip, Watcher(), {0.5: [], 1.5: [(*LEFT, 0.1)]}, short_side=48))
    assert [len(result.boxes_xyxy) for result in results] == [0, 0]
    assert results[0].action_scores.shape == (0, 4)


def test_a_detector_can_be_passed_in(clip):
    seen = []

    def find_people(image):
        seen.append(image)
        return [LEFT, (-5.0, 10.0, 20.0, 99.0), (7.0, 7.0, 7.0, 9.0)], [0.9, 0.8, 0.99]

    results = list(twospeed.detect(clip, Watcher(), find_people, short_side=48))
    assert [round((float(image.mean()) - 20) / 2) for image in seen] == [0, 30, 60]
    assert results[0].boxes_xyxy.tolist() == [list(LEFT), [0, 10, 20, 48]]
    with pytest.raises(InputError, match="a person detector"):
        list(twospeed.detect(clip, Watcher(), lambda image: [LEFT]))


def test_memory_does_not_grow_with_the_video(tmp_path, monkeypatch):
    long = numbered(tmp_path / "long.mp4", 600)
    held = []
    original = Detector._result

    def result(self, keyframe, frames, *rest):
        held.append(len(frames))
        return original(self, keyframe, frames, *rest)

    monkeypatch.setattr(Detector, "_result", result)
    assert len(list(twospeed.detect(long, Watcher(), [LEFT], 2.0, short_side=48))) == 12
    assert max(held) <= 16


def test_a_stream_gives_what_its_file_gives(clip):
    expected = list(twospeed.detect(clip, Watcher(), [LEFT], short_side=48))
    with clip.open("rb") as stream:
        found = list(twospeed.detect(stream, Watcher(), [LEFT], short_side=48))
    assert [f.time_s for f in found] == [e.time_s for e in expected]


def test_keyframes_out_of_range_are_refused_before_anything_is_computed(clip):
    watcher = Watcher()
    with pytest.raises(InputError, match=r"the keyframe at 7 s is out of range: .*clip.mp4 runs from 0 to 3.000 s"):
        twospeed.detect(clip, watcher, {1.0: [LEFT], 7.0: [LEFT]})
    with pytest.raises(InputError, match=r"boxes at 902 s.* is out of range"):
        twospeed.detect(clip, watcher, {902: [LEFT]})
    with pytest.raises(InputError, match="before the video, which begins at 900 s"):
        twospeed.detect(clip, watcher, {1.0: [LEFT]}, start_s=900)
    assert next(twospeed.detect(clip, watcher, {902: [LEFT]}, start_s=900, short_side=48)).time_s == 2
    assert len(watcher.clips) == 1


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(2, 4, 140, 44)], "box 2, 4, 140, 44 lies outside of the image of 96x48 pixels"),
        ([(40, 4, 2, 44)], "box 40, 4, 2, 44 has no area"),
        ([(2, 4, 40)], r"boxes have shape \(1, 3\)"),
        ([(2, 4, float("nan"), 40)], "not a finite number"),
        ("nowhere.csv", "no boxes at nowhere.csv; give boxes instead"),
    ],
)
def test_boxes_that_cannot_be_are_refused(clip, boxes, message):
    with pytest.raises(InputError, match=message):
        list(twospeed.detect(clip, Watcher(), boxes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_s": 0}, "every_s=0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"short_side": 8}, "a shorter side of 8"),
        ({"scales": (64, 8)}, "a shorter side of 8"),
        ({"scales": (64, 64)}, "scales=64,64: give each size once"),
        ({"scales": (64,), "short_side": 48}, "short_side and scales exclude each other"),
        ({"model_or_name": [Watcher(), Watcher()], "weights": ["default"]}, "2 networks with 1 weights"),
        ({"model_or_name": [Watcher(), Wide()]}, "the same classes: Watcher has 4, Wide has 5"),
        ({"model_or_name": "slowfast_r50_8x8"}, "network of the task 'classify'"),
        (
            {"model_or_name": torch.nn.Identity()},
            "Identity is not a network that scores what people in boxes do: it has no `frames`",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Detector(**{"model_or_name": Watcher(), "boxes": [LEFT], **options})


def test_without_weights_for_people_one_line_says_how_to_give_boxes(monkeypatch, tmp_path):
    def fetch(url, path, *_):
        raise WeightsUnavailable(f"cannot reach {url}; put it at {path}")

    monkeypatch.setattr(person_boxes.store, "_fetch", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("TWOSPEED_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match="give boxes instead: a file") as error:
        Detector(Watcher())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"no weights", {"conv1.weight": torch.zeros(1)}])
def test_a_person_detector_with_damaged_weights_is_one_line(monkeypatch, tmp_path, content):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = tmp_path / "checkpoints" / person_boxes._DETECTOR.weights.file
    weights.parent.mkdir()
    weights.write_bytes(content) if isinstance(content, bytes) else torch.save(content, weights)
    with pytest.raises(CheckpointError) as error:
        person_boxes.person_detector()
    assert str(weights) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_people_are_those_that_the_detector_calls_people(monkeypatch, tmp_path):
    from torchvision.models import detection

    def smaller(**options):  # of the same family, in a tenth of the time
        torch.manual_seed(0)
        return detection.fasterrcnn_mobilenet_v3_large_320_fpn(**{**options, "box_score_thresh": 0.0})

    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn", smaller)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    weights = tmp_path / "checkpoints" / person_boxes._DETECTOR.weights.file
    weights.parent.mkdir()
    network = smaller(weights=None, weights_backbone=None)
    bias = network.roi_heads.box_predictor.cls_score.bias
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    found = []
    for favoured in (1, 2):  # COCO's person, and another class
        bias.data = torch.eye(len(bias))[favoured] * 20
        torch.save(network.state_dict(), weights)
        found.append(person_boxes.person_detector()(image))
    boxes, scores = found[0]
    assert boxes.shape == (len(scores), 4)
    assert scores.min() > 0.9
    assert (boxes >= 0).all()
    assert (boxes <= [90, 60, 90, 60]).all()
    assert (found[1][1] < 0.1).all()


def test_a_video_that_changes_its_size_is_refused():
    frames = [twospeed.Frame(i, i / 30, np.zeros((48, 96 if i < 40 else 64, 3), np.uint8)) for i in range(90)]

    detector = Detector(Watcher(), [LEFT], short_side=48)
    with pytest.raises(VideoError, match="frame 40 is 64x48, those before are 96x48"):
        list(detector.detect(frames))


# ------------------------------------------------------------------------------------------------ files of boxes


def test_forms_of_files(tmp_path):
    def read(name, text, **options):
        (tmp_path / name).write_text(text)
        return given_boxes(tmp_path / name, **options)

    ava = "clip,0902,0.1,0.2,0.5,0.6,12,0.9\nclip,0902,0.1,0.2,0.5,0.6,14,0.95\nother,0902,0.1,0.2,0.9,0.6,,0.9\n"
    found = read("ava.csv", ava, video="clip", start_s=900)
    assert found.times_s == (2.0,)
    assert found.normalised
    assert found.at(0, 100, 200)[0].tolist() == [[20, 20, 100, 60]]
    assert found.at(0, 100, 200)[1].tolist() == [0.95]
    assert read("gt.csv", "clip,1,0.1,0.2,0.5,0.6,12,0\n").rows[0][0].score == 1.0  # a person's id, not a score
    table = read("t.csv", "frame,x1,y1,x2,y2\n15,2,4,40,44\n30,2,4,40,44\n", rate=30.0)
    assert table.times_s == (0.5, 1.0)
    assert not table.normalised
    entries = [{"time_s": 1, "boxes": [LEFT, RIGHT], "scores": [0.9, 0.8]}, {"time_s": 2, "bbox": [2, 4, 38, 40]}]
    found = read("b.json", json.dumps(entries))
    assert found.times_s == (1.0, 2.0)
    assert found.rows[1][0].xyxy == LEFT
    assert read("s.json", json.dumps([LEFT])).times_s == ()
    entries = [{"time_s": 1, "boxes": []}, {"time_s": 2, "boxes": [LEFT]}, {"time_s": 3, "people": []}]
    found = read("e.json", json.dumps(entries))
    assert (found.times_s, [len(rows) for rows in found.rows]) == ((1.0, 2.0, 3.0), [0, 1, 0])
    assert read("n.json", json.dumps(entries[:1])).times_s == (1.0,)
    again = {"keyframes": [{"time_s": 1.0, "people": [{"box_xyxy": LEFT, "person_score": 0.9}]}]}
    assert read("r.json", json.dumps(again)).rows[0][0].score == 0.9


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "one,1,0.1,0.1,0.2,0.2,,1\ntwo,1,0.1,0.1,0.2,0.2,,1",
            "boxes of 2 videos .*none of them called 'clip'",
        ),
        ("a.csv", "clip,1,0.1,0.1,0.2,0.2,,0.9\nclip,1,0.1,0.1", "a.csv:2: 4 columns"),
        ("t.csv", "time_s,x1,y1,x2\n1,2,3,4", "t.csv:1: .*boxes need x1, y1, x2, y2"),
        ("t.csv", "time_s,x1,y1,x2,y2\n1,2,3,4", "t.csv:2: 4 columns, the header has 5"),
        ("t.csv", "time_s,x1,y1,x2,y2\n1,2,3,4,wide", "t.csv:2: a field is not a number"),
        ("t.csv", "time_s,x1,y1,x2,y2\n", "no boxes given"),
        ("b.json", "[{", "b.json:1: not JSON"),
        ("b.json", '[{"time_s": 1}]', 'entry 0 has no "boxes"'),
        ("b.json", '[{"time_s": "one", "box": [1, 2, 3, 4]}]', "time_s is 'one', not a number"),
        ("b.json", '[{"box": [1, 2, 3, 4]}, {"time_s": 1, "box": [1, 2, 3, 4]}]', "entry 0, row 0: has no time_s"),
        ("b.json", '[{"time_s": 1, "boxes": [[1, 2, 3, 4]], "scores": []}]', "1 boxes with 0 scores"),
        ("b.json", "[1, 2]", "entry 0 is no object with boxes"),
        ("b.json", '[{"time_s": 1, "boxes": [[1, 2, 3, 4]], "scores": 1}]', "scores is 1, not a list"),
        ("b.json", '[{"time_s": 1, "people": [1]}]', '"people" is a list of objects'),
        ("b.json", '[{"time_s": 1, "boxes": [[1, 2, 3, 4]], "scores": [7]}]', "entry 0, row 0: score 7 is not from 0"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        given_boxes(tmp_path / name, video="clip")


# ------------------------------------------------------------------------------------------------ people


def test_numbers_follow_people_who_move_and_are_not_given_twice():
    linker = PersonLinker(patience=1)
    assert linker.step(np.array([LEFT, RIGHT])) == (1, 2)
    assert linker.step(np.array([RIGHT, LEFT]) + MOVED) == (2, 1)
    assert linker.step(np.zeros((0, 4))) == ()
    assert linker.step(np.array([LEFT])) == (1,)  # missing once
    assert linker.step(np.zeros((0, 4))) == ()
    assert linker.step(np.zeros((0, 4))) == ()
    assert linker.step(np.array([LEFT])) == (3,)  # missing for too long
    assert len(linker._ids) == 1


def test_two_people_who_come_near_each_other_keep_the_best_sum_of_overlaps():
    linker = PersonLinker()
    first, second = np.array([0.0, 0, 10, 10]), np.array([6.0, 0, 16, 10])
    assert linker.step(np.stack([first, second])) == (1, 2)
    # Taking the best pair first would give number 2 to the left one, and a new number to the other
    assert linker.step(np.stack([second - np.array([2, 0, 2, 0]), second + np.array([5, 0, 5, 0])])) == (1, 2)


def test_between_keyframes_people_move_in_straight_lines():
    def at(time_s, boxes, ids):
        n = len(ids)
        return ActionBoxes(time_s, np.array(boxes, np.float32), np.ones(n), np.zeros((n, 2)), ("a", "b"), ids)

    before, after = at(1.0, [LEFT, RIGHT], (1, 2)), at(2.0, [RIGHT, LEFT], (1, 3))
    boxes, rows = between(before, after, 1.25, 1.0)
    assert boxes.tolist() == [[14, 4, 52.5, 44], list(RIGHT)]
    assert rows == [(before, 0), (before, 1)]
    boxes, rows = between(before, after, 1.75, 1.0)
    assert rows == [(after, 0), (after, 1)]
    assert between(after, None, 2.5, 1.0)[1] == [(after, 0), (after, 1)]
    assert between(after, None, 3.5, 1.0)[1] == []
