"""A video in parts gives what the whole one gives, bit for bit, in each job; and parts are computed once."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import twospeed as package
from tests.batch.conftest import same
from tests.batch.stub import count_parts, ended, prepare, run, write_videos
from tests.cli.commands import twospeed
from tests.video.footage import film, numbered_image
from twospeed.batch.driver import Batch, Policy
from twospeed.batch.local import LocalEngine
from twospeed.batch.storage import open_storage
from twospeed.batch.worker import Work
from twospeed.errors import InputError
from twospeed.pipelines.action_views import sliding_views
from twospeed.pipelines.classify import Classifier
from twospeed.pipelines.detect import Detector
from twospeed.pipelines.parts import part_name, read_parts, split_video, write_part
from twospeed.video.sampling import ClipShape
from twospeed.weights.load import save_model

pq = pytest.importorskip("pyarrow.parquet")

COUNT = 90
SMALL = {"classify": "slow_r50_4x16", "detect": "slow_r50_4x16_ava", "segment": "gsvnet_swiftnet_r18"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Clips of 3 s, at a constant rate, at a varying one and with a pause; small random networks for each job."""
    folder = tmp_path_factory.mktemp("parts")
    images = [numbered_image(number, 40, 64) for number in range(COUNT)]
    film(folder / "even.mp4", images, rate=30, options={"g": "12"})
    steps = np.random.default_rng(0).integers(20, 60, COUNT)
    film(folder / "uneven.mkv", images, pts=np.cumsum(steps).tolist(), time_base=Fraction(1, 1000))
    steps[50] = 130_000
    film(folder / "pause.mkv", images, pts=np.cumsum(steps).tolist(), time_base=Fraction(1, 1000))
    torch.manual_seed(0)
    small = {"classify": {"width": 8, "num_classes": 5}, "detect": {"width": 8}, "segment": {"num_classes": 6}}
    for job, options in small.items():
        save_model(
            package.create_model(SMALL[job], None, **options), folder / f"{job}.safetensors", model_name=SMALL[job]
        )
    (folder / "names.txt").write_text("jump\nrun\nsit\nstand\nwalk\n")
    (folder / "people.csv").write_text(
        "time_s,x1,y1,x2,y2,score\n"
        + "".join(f"{t / 4},{4 + t},4,{20 + t},30,0.9\n{t / 4},30,4,44,30,0.9\n" for t in range(11))
    )
    return folder


CLIPS = ["even.mp4", "uneven.mkv", "pause.mkv"]
RANGES = [(None, None), (7, 80), ("0.3s", "2.2s")]


@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("clip", CLIPS)
def test_parts_cover_a_video_once(place, clip, start, end):
    for seconds, multiple in ((0.5, 1), (0.4, 4), (1000.0, 1), (0.001, 3)):
        parts = split_video(place / clip, seconds, start=start, end=end, multiple=multiple)
        assert [index for part in parts for index in part.frames] == list(parts[0].whole)
        assert [part.number for part in parts] == list(range(1, parts[0].count + 1))
        assert all(len(part.frames) % multiple == 0 for part in parts[:-1])
        assert [part.until_s for part in parts[:-1]] == [part.from_s for part in parts[1:]]
        assert len({part.count for part in parts}) == 1
    assert split_video(place / clip, 0.5, damaged="skip") == []


@pytest.mark.parametrize(("start", "end"), RANGES)
@pytest.mark.parametrize("clip", CLIPS)
def test_windows_of_parts_are_those_of_the_whole(place, clip, start, end):
    """Also at varying rates, over a pause of two minutes, and where parts are shorter than windows."""
    samplings = [ClipShape(4, 4, short_side=16, crop=16), ClipShape(3, 2, short_side=16, crop=16)]
    chosen = {"start": start, "end": end}
    whole = list(sliding_views(place / clip, samplings, 0.37, 1, **chosen))
    assert len(whole) > 4
    for seconds in (0.1, 0.7):
        parts = split_video(place / clip, seconds, **chosen)
        views = [v for part in parts for v in sliding_views(place / clip, samplings, 0.37, 1, part=part, **chosen)]
        assert [(v.number, v.sampling, v.start_s, v.end_s) for v in views] == [
            (v.number, v.sampling, v.start_s, v.end_s) for v in whole
        ]
        assert all(torch.equal(one.clip, other.clip) for one, other in zip(views, whole, strict=True))


@pytest.mark.parametrize("clip", CLIPS)
def test_keyframes_of_parts_are_those_of_the_whole(place, clip, tmp_path):
    """With a grid and given times; the numbers of people are those of the whole, too."""
    network = {"weights": str(place / "detect.safetensors"), "short_side": 32}
    for boxes, chosen in ((np.array([[4.0, 4, 20, 30]]), {"start": 7, "end": 80}), (place / "people.csv", {})):
        detector = Detector(SMALL["detect"], boxes, 0.3, **network)
        whole = list(detector.detect(place / clip, **chosen))
        assert len(whole) > 4
        answers = []
        for part in split_video(place / clip, 0.5, **chosen):
            path = tmp_path / part_name(part.number, part.count)
            write_part(path, detector.answers(place / clip, part, end=chosen.get("end")))
        answers = list(read_parts(tmp_path))
        joined = list(detector.detect(place / clip, known=answers, **chosen))
        for one, other in zip(whole, joined, strict=True):
            assert (one.time_s, one.track_ids) == (other.time_s, other.track_ids)
            for name in ("boxes_xyxy", "person_scores", "action_scores"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), name
        with pytest.raises(InputError, match="do not fit the video: the keyframe at"):
            list(detector.detect(place / clip, known=answers[:-1], **chosen))
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


def test_a_timeline_of_parts_is_that_of_the_whole(place):
    options = {"timeline": True, "every_s": 0.25, "crops": 1, "labels": str(place / "names.txt")}
    classifier = Classifier(SMALL["classify"], weights=str(place / "classify.safetensors"), **options)
    whole, frames = classifier.classify(place / "uneven.mkv"), classifier.frames_seen
    answers = [
        a for part in split_video(place / "uneven.mkv", 0.6) for a in classifier.answers(place / "uneven.mkv", part)
    ]
    classifier.frames_seen = 0
    joined = classifier.classify(place / "uneven.mkv", known=answers)
    assert classifier.frames_seen == frames
    assert np.array_equal(whole.view_probabilities, joined.view_probabilities)
    assert np.array_equal(whole.view_times_s, joined.view_times_s)
    assert whole.timeline == joined.timeline
    with pytest.raises(InputError, match="a window comes twice"):
        classifier.classify(place / "uneven.mkv", known=answers + answers)


def test_files_of_parts(tmp_path):
    with pytest.raises(InputError, match="holds 0 files of parts"):
        list(read_parts(tmp_path))
    write_part(tmp_path / part_name(2, 2), [({"x": 0.1}, b"two")])
    with pytest.raises(InputError, match="holds 1 files of parts, 2 make a whole"):
        list(read_parts(tmp_path))
    write_part(tmp_path / part_name(1, 2), [({"x": 1e-17}, b""), ({"x": None}, b"1")])
    assert list(read_parts(tmp_path)) == [({"x": 1e-17}, b""), ({"x": None}, b"1"), ({"x": 0.1}, b"two")]
    (tmp_path / part_name(1, 2)).write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as a part"):
        list(read_parts(tmp_path))


JOBS = {
    "segment": (["--keyframe-every", 4], "frames classes"),
    "classify": (
        ["--timeline", "--every", 0.25, "--labels", "{}/names.txt", "--export", "vtt,jsonl"],
        "frames actions",
    ),
    "detect": (["--boxes", "{}/people.csv", "--every", 0.25, "--size", 32, "--export", "cvat"], "frames boxes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_batch_in_parts_equals_a_run(job, place, tmp_path, here, capsys):
    """Every file of the results byte for byte, with small networks of random weights."""
    options, tables = JOBS[job]
    command = [
        *(str(option).format(place) for option in options),
        "--model",
        SMALL[job],
        "--weights",
        place / f"{job}.safetensors",
        "--end",
        75,
        "-q",
    ]
    out = tmp_path / "out"
    assert twospeed("batch", job, place / "uneven.mkv", "-o", out, *command, "--split-minutes", 0.7 / 60) == 0
    events = [json.loads(line) for file in (out / "events").iterdir() for line in file.read_text().splitlines()]
    (split,) = [event for event in events if event["event"] == "split"]
    assert split["parts"] == 5
    assert [event["part"] for event in events if event["event"] == "part"] == [1, 2, 3, 4, 5]
    assert not list((out / "parts").iterdir())
    assert twospeed(job, place / "uneven.mkv", "-o", tmp_path / "uneven", *command) == 0
    same(tmp_path / "uneven", out / "videos" / "uneven", "overlay.mp4")
    overlays = [folder / "uneven" / "overlay.mp4" for folder in (tmp_path, out / "videos")]
    for one, other in zip(*map(package.open_video, overlays), strict=True):
        assert np.array_equal(one.image, other.image)
    for table in tables.split():
        assert pq.read_table(out / table).num_rows
    capsys.readouterr()


@pytest.mark.slow
def test_what_cannot_be_split_is_computed_whole(place, tmp_path, here, monkeypatch):
    monkeypatch.chdir(place)
    network = ["--model", SMALL["segment"], "--weights", place / "segment.safetensors", "-q", "--no-overlay"]
    for number, options in enumerate((["--drift", 1.5], ["--damaged", "skip"])):
        command = ["even.mp4", "-o", tmp_path / str(number), *network, *options, "--split-minutes", 0.01]
        assert twospeed("batch", "segment", *command) == 0
        assert not (tmp_path / str(number) / "parts").exists()


def run_in_parts(out: str, videos, **policy: float) -> tuple[dict[str, int], Batch]:
    with Batch(open_storage(out), "segment", [], Policy(**{"backoff_s": 0.01, **policy})) as batch:
        batch.add(videos)
        work = Work("segment", run, [], out, batch.batch_id, prepare, count_parts, 1.0)
        return batch.run(LocalEngine(work, [None, None])), batch


def test_parts_that_fail_and_die(tmp_path):
    """A part is tried again alone; a video whose part always fails is failed once, and keeps what it has."""
    contents = {"parts": "parts 3 ok", "unlucky": "parts 3 die-once", "poisoned": "parts 4 die", "bad": "parts 2 bad"}
    videos = write_videos(tmp_path / "in", **contents, whole="ok")
    counts, batch = run_in_parts(str(tmp_path / "out"), videos)
    states = {row.key: (row.state, row.attempts) for row in batch.manifest.rows.values()}
    failed = {"poisoned": ("failed", 3), "bad": ("failed", 1)}
    assert states == {"parts": ("done", 1), "unlucky": ("done", 2), "whole": ("done", 1), **failed}
    assert counts == {"pending": 0, "running": 0, "done": 3, "failed": 2}
    log = (tmp_path / "in" / "parts.log").read_text().split("\n")
    assert sorted(log[:-1]) == sorted(["begin parts", "end parts", *(f"part {n} parts" for n in (1, 2, 3))])
    assert (tmp_path / "in" / "unlucky.log").read_text().count("part 1 unlucky") == 1
    assert {path.name for path in (tmp_path / "out" / "parts").iterdir()} <= {"poisoned", "bad"}
    (tmp_path / "in" / "poisoned.mp4").write_text("parts 4 ok")
    (tmp_path / "in" / "poisoned.log").unlink()
    known = len(list((tmp_path / "out" / "parts" / "poisoned").iterdir()))
    with Batch(open_storage(str(tmp_path / "out")), "segment", []) as again:
        again.manifest.retry_failed()
    counts, _ = run_in_parts(str(tmp_path / "out"), [])
    assert counts["done"] == 4
    computed = (tmp_path / "in" / "poisoned.log").read_text().count("part")
    assert computed == 4 - known
    assert ended(tmp_path / "in")["poisoned"] == 1
