"""Running trackers over benchmarks: what they are fed, what is written, averaging, and going on after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.vos_trees import moving_squares, write_davis, write_youtube_vos
from twospeed.data.benchmarks.davis import Davis
from twospeed.data.benchmarks.youtube_vos import YouTubeVos
from twospeed.errors import InputError, OutputError
from twospeed.evaluation.mask_runs import RunSettings, remembered_jobs, youtube_vos_jobs
from twospeed.evaluation.vos import DAVIS_TEST_SETTINGS, davis_settings, evaluate_davis, evaluate_youtube_vos
from twospeed.pipelines.tracker import Tracker
from twospeed.results import ObjectMasks, Progress
from twospeed.weights.load import create_model


class CopyTracker:
    """Keeps the first mask where it was given: a weak but honest tracker that writes down what it is fed."""

    needs_masks = True

    def __init__(self, model: object, **options: object):
        self.model, self.options = model, options
        self.fed: list[tuple[np.ndarray, np.ndarray | None]] = []
        self.reset()

    def reset(self) -> None:
        self.labels: np.ndarray | None = None
        self.ids: list[int] = []

    def step(self, image: np.ndarray, masks: np.ndarray | None = None) -> ObjectMasks:
        self.fed.append((image, masks))
        if self.labels is None:
            self.labels = np.zeros(image.shape[:2], np.uint8)
        if masks is not None:
            self.labels = np.where(masks > 0, masks, self.labels).astype(np.uint8)
            self.ids += [int(k) for k in np.unique(masks) if k and k not in self.ids]
        planes = [self.labels == k for k in (0, *self.ids)]
        return ObjectMasks(self.labels, np.stack(planes).astype(np.float32), tuple(self.ids))


class Builder:
    """Builds trackers and keeps them for the test to look at."""

    def __init__(self, kind: type = CopyTracker):
        self.kind, self.built = kind, []

    def __call__(self, model: object, **options: object) -> CopyTracker:
        self.built.append(self.kind(model, **options))
        return self.built[-1]


@pytest.fixture
def davis17(tmp_path: Path) -> Path:
    labels = {"dog": moving_squares(6, 2), "cows": moving_squares(5, 1, seed=1)}
    return write_davis(tmp_path / "davis", labels)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        return np.asarray(mask)


def test_a_model_is_scored_by_the_files_it_writes(davis17: Path, tmp_path: Path):
    build = Builder()
    report = evaluate_davis(davis17, 2017, model=object(), build_tracker=build, output=tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out" / "dog").iterdir()) == [f"{t:05d}.png" for t in range(6)]
    with Image.open(tmp_path / "out/dog/00005.png") as mask:
        assert mask.mode == "P"
    again = evaluate_davis(davis17, 2017, predictions=tmp_path / "out")
    assert again.scores == report.scores
    assert 0.3 < report.scores["global"]["J-Mean"] < 0.9
    # Masks are given on the first frame alone, and every frame is seen once.
    given = [masks is not None for _, masks in build.built[0].fed]
    assert given == [True, *[False] * 4, True, *[False] * 5]
    assert report.speed["frames"] == 11


def test_published_settings_reach_the_tracker(davis17: Path):
    build = Builder()
    evaluate_davis(davis17, 2017, model=object(), build_tracker=build)
    expected = {"memory_every": 5, "include_last": False, "top_k": 20, "max_memory_frames": None, "size": None}
    assert build.built[0].options == expected
    assert davis_settings("test-dev") == DAVIS_TEST_SETTINGS
    assert DAVIS_TEST_SETTINGS.memory_every == 3


def test_davis16_is_one_foreground_in_black_and_white(tmp_path: Path):
    root = write_davis(tmp_path / "davis", {"dog": moving_squares(4, 3)}, year=2016)
    build = Builder()
    report = evaluate_davis(root, 2016, model=object(), build_tracker=build, output=tmp_path / "out")
    with Image.open(tmp_path / "out/dog/00002.png") as mask:
        assert mask.mode == "L"
        assert set(np.unique(np.asarray(mask))) == {0, 255}
    assert set(np.unique(build.built[0].fed[0][1])) == {0, 1}
    assert evaluate_davis(root, 2016, predictions=tmp_path / "out").scores == report.scores


def test_void_is_not_given_as_an_object(tmp_path: Path):
    labels = moving_squares(4, 1)
    labels[:, -3:] = 255
    root = write_davis(tmp_path, {"dog": labels})
    build = Builder()
    evaluate_davis(root, 2017, model=object(), build_tracker=build)
    assert set(np.unique(build.built[0].fed[0][1])) == {0, 1}


def test_sizes_and_mirrors_are_averaged_in_step(davis17: Path, tmp_path: Path):
    build = Builder()
    settings = RunSettings(scales=(480, 600), flip=True)
    evaluate_davis(davis17, 2017, model=object(), build_tracker=build, settings=settings, output=tmp_path / "out")
    assert [t.options["size"] for t in build.built] == [480, 480, 600, 600]
    assert [t.options.get("kernel_sigma") for t in build.built] == [None, None, 7.0, 7.0]
    plain, mirrored = build.built[0].fed[0], build.built[1].fed[0]
    np.testing.assert_array_equal(plain[0], mirrored[0][:, ::-1])
    np.testing.assert_array_equal(plain[1], mirrored[1][:, ::-1])
    # All passes copy the first mask, so mirrored back their mean is that mask.
    first = read(davis17 / "Annotations/480p/dog/00000.png")
    np.testing.assert_array_equal(read(tmp_path / "out/dog/00004.png"), first)


def test_the_mean_of_several_models_decides(davis17: Path, tmp_path: Path):
    class Opinion(CopyTracker):
        """Says "object 1" for its half of the image, with its own confidence and order of objects."""

        def step(self, image: np.ndarray, masks: np.ndarray | None = None) -> ObjectMasks:
            result = super().step(image, masks)
            height, width = image.shape[:2]
            one = np.full((height, width), 0.1, np.float32)
            half = slice(0, width // 2) if self.model.side == "left" else slice(width // 2, width)
            one[:, half] = self.model.confidence
            two = np.full_like(one, 0.05)
            planes = {1: one, 2: two}
            ids = result.object_ids[::-1] if self.model.side == "left" else result.object_ids
            stack = np.stack([1 - sum(planes[k] for k in ids), *(planes[k] for k in ids)])
            return ObjectMasks(result.labels, stack, ids)

    class Model:
        def __init__(self, side: str, confidence: float):
            self.side, self.confidence = side, confidence

    models = [Model("left", 0.95), Model("right", 0.6)]
    evaluate_davis(
        davis17, 2017, model=models, build_tracker=Builder(Opinion), sequences=["dog"], output=tmp_path / "out"
    )
    labels = read(tmp_path / "out/dog/00003.png")
    assert (labels[:, :32] == 1).all()  # mean 0.525 against a background of 0.425
    assert (labels[:, 32:] == 0).all()  # mean 0.35


def test_a_run_goes_on_where_it_stopped(davis17: Path, tmp_path: Path):
    class Stops(CopyTracker):
        def step(self, image: np.ndarray, masks: np.ndarray | None = None) -> ObjectMasks:
            if len(self.fed) == 8:  # in the second sequence
                raise KeyboardInterrupt
            return super().step(image, masks)

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate_davis(davis17, 2017, model=object(), build_tracker=Builder(Stops), output=out)
    assert sorted(p.name for p in out.iterdir()) == ["cows", "evaluation.json"]  # nothing half done
    with pytest.raises(InputError, match="holds results already; resume them"):
        evaluate_davis(davis17, 2017, model=object(), build_tracker=Builder(), output=out)
    with pytest.raises(InputError, match=r"was begun with memory_every 5 \(now 1\)"):
        evaluate_davis(
            davis17,
            2017,
            model=object(),
            build_tracker=Builder(),
            output=out,
            resume=True,
            settings=RunSettings(memory_every=1),
        )
    seen: list[Progress] = []
    build = Builder()
    report = evaluate_davis(
        davis17, 2017, model=object(), build_tracker=build, output=out, resume=True, on_progress=seen.append
    )
    assert len(build.built[0].fed) == 6  # dog alone
    tracked = [p for p in seen if p.task == "track"]
    assert [p.message for p in tracked if p.message] == ["cows: kept from before (1 of 2)", "dog: 6 frames (2 of 2)"]
    assert [p.done for p in tracked] == [5, 6, 7, 8, 9, 10, 11, 11]
    assert {p.total for p in tracked} == {11}
    assert [(p.done, p.total) for p in seen if p.task == "score"] == [(1, 2), (2, 2)]
    straight = evaluate_davis(davis17, 2017, model=object(), build_tracker=Builder())
    assert report.scores == straight.scores


def test_a_folder_with_other_things_is_left_alone(davis17: Path, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no run to resume"):
        evaluate_davis(davis17, 2017, model=object(), build_tracker=Builder(), output=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_full_disk_leaves_nothing_half_written(davis17: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self: Image.Image, *args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        evaluate_davis(davis17, 2017, model=object(), build_tracker=Builder(), output=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["evaluation.json"]


def test_the_unsupervised_task_gives_no_masks(tmp_path: Path):
    root = write_davis(tmp_path, {"dog": moving_squares(4, 2)}, kind="Annotations_unsupervised")
    with pytest.raises(InputError, match="needs a first mask, which the unsupervised task does not give"):
        evaluate_davis(root, 2017, task="unsupervised", model=object(), build_tracker=Builder())

    class Finds(CopyTracker):
        needs_masks = False

        def step(self, image: np.ndarray, masks: np.ndarray | None = None) -> ObjectMasks:
            assert masks is None
            found = np.where(image[..., 0] > 70, image[..., 0] // 60, 0).astype(np.uint8)  # by colour
            return ObjectMasks(found, np.zeros((1, *found.shape), np.float32), ())

    report = evaluate_davis(root, 2017, task="unsupervised", model=object(), build_tracker=Builder(Finds))
    assert report.scores["global"]["J-Mean"] > 0.8


def test_a_test_split_gives_masks_but_no_scores(tmp_path: Path):
    root = write_davis(tmp_path / "davis", {"dog": moving_squares(4, 1)}, lists={"2017/test-dev.txt": ["dog"]})
    for t in (1, 2, 3):
        (root / f"Annotations/480p/dog/{t:05d}.png").unlink()
    with pytest.raises(InputError, match="not public, so only predictions can be made"):
        evaluate_davis(root, 2017, split="test-dev", model=object(), build_tracker=Builder())
    build = Builder()
    out = tmp_path / "out"
    report = evaluate_davis(root, 2017, split="test-dev", model=object(), build_tracker=build, output=out)
    assert build.built[0].options["memory_every"] == 3
    assert report.scores == {}
    assert "send" in report.notes[0]
    assert len(list((out / "dog").glob("*.png"))) == 4
    assert "test-dev" in report.text()


# YouTube-VOS


def test_objects_are_given_when_they_appear_and_only_wanted_frames_are_written(tmp_path: Path):
    labels = moving_squares(23, 2, starts={1: 5, 2: 10})
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog", 2: "unicorn"}})
    build, out = Builder(), tmp_path / "out"
    report = evaluate_youtube_vos(root, model=object(), build_tracker=build, output=out)
    assert sorted(p.stem for p in (out / "aa").iterdir()) == ["00005", "00010", "00015", "00020"]
    assert report.scores == evaluate_youtube_vos(root, predictions=out).scores
    # Frames 5, 10, 15, 20 are wanted and remembered: those between need not be computed.
    assert [t.options["memory_every"] for t in build.built] == [5, 1]
    assert [t.options["size"] for t in build.built] == [480, 480]
    given = [None if masks is None else set(np.unique(masks)) for _, masks in build.built[1].fed]
    assert given == [{0, 1}, {0, 2}, None, None]


def test_frames_are_skipped_only_where_no_mask_changes(tmp_path: Path):
    def sample(starts: dict[int, int], every: int):
        labels = moving_squares(21, 2, starts=starts)
        root = tmp_path / f"{starts}-{every}"
        write_youtube_vos(root, {"aa": labels}, {"aa": {1: "dog", 2: "cat"}}, every=every)
        return YouTubeVos(root)[0]

    def names(jobs):
        return [int(frame) for frame, _, _ in jobs]

    assert names(remembered_jobs(youtube_vos_jobs(sample({}, 5)), 5)) == [0, 5, 10, 15, 20]
    assert names(remembered_jobs(youtube_vos_jobs(sample({2: 10}, 5)), 5)) == [0, 5, 10, 15, 20]
    wanted_often = youtube_vos_jobs(sample({}, 2))
    assert remembered_jobs(wanted_often, 5) is None
    assert len(wanted_often) == 21
    # A tracker that remembers every 3rd frame would do so at 3, 6, 9, ... too, and 5 is wanted
    assert remembered_jobs(youtube_vos_jobs(sample({}, 5)), 3) is None


def test_without_all_frames_the_report_says_so(tmp_path: Path):
    root = write_youtube_vos(tmp_path / "yt", {"aa": moving_squares(11, 1)}, {"aa": {1: "dog"}}, all_frames=False)
    report = evaluate_youtube_vos(root, model=object(), build_tracker=Builder())
    assert "every fifth frame only" in report.notes[0]


def test_withheld_annotations_give_masks_for_the_server(tmp_path: Path):
    root = write_youtube_vos(tmp_path / "yt", {"aa": moving_squares(11, 1)}, {"aa": {1: "dog"}}, public=False)
    with pytest.raises(InputError, match="give a folder for them"):
        evaluate_youtube_vos(root, model=object(), build_tracker=Builder())
    report = evaluate_youtube_vos(root, model=object(), build_tracker=Builder(), output=tmp_path / "out")
    assert report.scores == {}
    assert len(list((tmp_path / "out/aa").glob("*.png"))) == 3


# The tracker that users run


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("track_tiny", None)


def test_the_tracker_of_users_runs_and_its_files_are_its_results(network: torch.nn.Module, tmp_path: Path):
    labels = {"dog": moving_squares(5, 2)}
    root = write_davis(tmp_path / "davis", labels)
    report = evaluate_davis(root, 2017, model=network, output=tmp_path / "out", settings=RunSettings(memory_every=2))
    tracker = Tracker(network, memory_every=2, size=None)
    sample = Davis(root, 2017)[0]
    for t, frame in enumerate(sample.frames):
        expected = tracker.step(sample.image(frame), labels["dog"][0] if t == 0 else None).labels
        np.testing.assert_array_equal(read(tmp_path / "out/dog" / f"{frame}.png"), expected)
    assert report.model == "STCN"
    assert report.speed["frames"] == 5


def test_skipped_frames_change_no_mask(network: torch.nn.Module, tmp_path: Path):
    labels = moving_squares(16, 2, starts={2: 5})
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog", 2: "cat"}})
    sample = YouTubeVos(root)[0]
    assert len(remembered_jobs(youtube_vos_jobs(sample), 5)) < 16
    evaluate_youtube_vos(root, model=network, output=tmp_path / "out", settings=RunSettings(size=None))
    tracker = Tracker(network, memory_every=5, size=None)
    for frame, masks, wanted in youtube_vos_jobs(sample):
        result = tracker.step(sample.image(frame), masks).labels
        if wanted:
            np.testing.assert_array_equal(read(tmp_path / "out/aa" / f"{frame}.png"), result)


def test_no_frame_is_skipped_for_a_tracker_that_needs_every_one(tmp_path: Path):
    torch.manual_seed(0)
    network = create_model("track_small", None)  # sees the frame before
    labels = moving_squares(16, 2, starts={2: 5})
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog", 2: "cat"}})
    sample = YouTubeVos(root)[0]
    assert len(remembered_jobs(youtube_vos_jobs(sample), 5)) < 16
    evaluate_youtube_vos(root, model=network, output=tmp_path / "out", settings=RunSettings(size=None, finder=None))
    tracker = Tracker(network, memory_every=5, size=None, cuts=False, finder=None)
    for frame, masks, wanted in youtube_vos_jobs(sample):
        result = tracker.step(sample.image(frame), masks).labels
        if wanted:
            np.testing.assert_array_equal(read(tmp_path / "out/aa" / f"{frame}.png"), result)


def test_averaging_runs_with_the_tracker_of_users(network: torch.nn.Module, tmp_path: Path):
    root = write_davis(tmp_path / "davis", {"dog": moving_squares(3, 2)})
    settings = RunSettings(scales=(48, 64), flip=True)
    report = evaluate_davis(root, 2017, model=[network, network], settings=settings)
    assert report.model == "STCN + STCN"
    assert "8 passes a frame" in report.speed["clock"]
