"""Networks on AVA's own layout: what is computed is what users get, runs go on where they stopped, scores average."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import twospeed
from tests.cli.commands import fails
from tests.data.ava_trees import BOXES, MAP, make_ava
from tests.processes import run_processes
from twospeed.cli.main import exit_code
from twospeed.data.benchmarks.ava import BoxRows, read_detections, write_rows
from twospeed.data.benchmarks.ava_frames import AvaFrames
from twospeed.data.benchmarks.ava_keyframes import Keyframe
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation import ava_runs
from twospeed.evaluation.ava import average_detections
from twospeed.evaluation.ava_runs import evaluate_ava_model, published_person_score, score_keyframes
from twospeed.pipelines.box_actions import BoxActions
from twospeed.pipelines.detect import Detector
from twospeed.weights.load import save_model

NAME = "slow_r50_4x16_ava"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Weights of a small detector of four classes."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_model(network(0), path, model_name=NAME)
    return path


def network(seed: int, **options: object) -> torch.nn.Module:
    torch.manual_seed(seed)
    built = twospeed.create_model(NAME, None, width=8, num_classes=4, zero_init_final_bn=False, **options)
    torch.nn.init.normal_(built.head.projection.weight, std=0.5)
    return built


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_ava(tmp_path_factory.mktemp("ava"))


def run(*arguments: object) -> int:
    return exit_code([str(argument) for argument in arguments])


def test_a_model_is_scored_as_users_see_it(data, small, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--data", data, "--model", NAME, "--weights", small, "--size", 32)
    assert run("evaluate", "ava", *options, "-o", out, "--json", tmp_path / "scores.json") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["class_AP"]) == {"action 1", "action 3", "action 4"}
    assert scores["mAP"] == pytest.approx(np.mean(list(scores["class_AP"].values())))
    assert scores["coverage"] == "6 of 6 annotated keyframes have detections"
    assert (scores["model"], len(scores["weights_sha256"])) == (NAME, 64)
    assert scores["speed"]["frames"] == 6 * 4  # excluded keyframes and those without sure people are not computed
    assert "two: 3 keyframes (2 of 2)" in capsys.readouterr().err
    rows = read_detections(out / "detections.csv")
    assert len(rows) == (2 + 1 + 2) * 4 * 2  # at 903 one person is not sure enough
    again = ("--data", data, "--predictions", out / "detections.csv", "--json", tmp_path / "again.json", "-q")
    assert run("evaluate", "ava", *again) == 0
    assert json.loads((tmp_path / "again.json").read_text())["mAP"] == scores["mAP"]

    boxes = data / "annotations" / "ava_val_predicted_boxes.csv"
    for number, (video, source) in enumerate((("one", "videos/one.mp4"), ("two", "frames/two"))):
        detector = Detector(NAME, boxes, weights=small, start_s=900, short_side=32)
        seen = {900 + result.time_s: result.action_scores for result in detector.detect(data / source)}
        part = rows.take(np.array(rows.videos) == video)
        for second in (902, 903, 904):
            expected = part.scores[part.seconds == second].reshape(-1, 4)
            assert np.allclose(seen[second], expected, atol=2e-6), (number, second)


def test_version_people_and_their_score_are_those_of_the_published_test(data, small, tmp_path):
    """One network, two versions of the annotations, and two files of people: the report says what was taken."""
    root = tmp_path / "ava"
    shutil.copytree(data, root)
    notes = root / "annotations"
    shutil.copy(
        notes / "ava_action_list_v2.2_for_activitynet_2019.pbtxt",
        notes / "ava_action_list_v2.1_for_activitynet_2018.pbtxt",
    )
    wrong = (notes / "ava_val_v2.2.csv").read_text().replace(BOXES[0], "0.9,0.9,1,1")
    (notes / "ava_val_v2.1.csv").write_text(wrong)
    (notes / "person_box_67091280_iou90").mkdir()
    people = (notes / "ava_val_predicted_boxes.csv").read_text().replace(",0.92", ",0.85")
    (notes / "person_box_67091280_iou90" / "ava_detection_val_boxes_and_labels.csv").write_text(people)

    def scored(*more):
        out = tmp_path / "scores.json"
        options = ("--data", root, "--model", NAME, "--weights", small, "--size", 32, "-q", "--json", out)
        assert run("evaluate", "ava", *options, *more) == 0
        return json.loads(out.read_text())

    newest, older = scored(), scored("--version", "2.1")
    assert older["settings"]["ground_truth"].endswith("ava_val_v2.1.csv")
    assert newest["settings"]["ground_truth"].endswith("ava_val_v2.2.csv")
    assert older["mAP"] < newest["mAP"]
    assert "boxes_and_labels.csv with a score of 0.9 or more (as published)" in newest["protocol"]  # Slow 4x16's
    assert "with a score of 0.8 or more (chosen)" in scored("--threshold", 0.8)["protocol"]
    assert published_person_score(["slowfast_r50_8x8_ava", "slow_r50_4x16_ava"]) == 0.8


def test_an_interrupted_run_goes_on(data, small, tmp_path, monkeypatch, capsys):
    options = ("evaluate", "ava", "--data", data, "--model", NAME, "--weights", small, "--size", 32, "-q", "-o")
    assert run(*options, tmp_path / "straight") == 0
    monkeypatch.setattr(ava_runs, "KEYFRAMES_A_PART", 1)
    calls = []
    original = BoxActions.scores

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(BoxActions, "scores", interrupted)
    out = tmp_path / "out"
    assert run(*options, out) == 130
    assert not (out / "detections.csv").exists()
    assert "resume them, or choose another folder (--resume)" in fails(capsys, *options, out)
    changed = (*options[:-1], "--flip", "--resume", "-o")
    assert "was begun with flip False (now True)" in fails(capsys, *changed, out)
    assert run(*options, out, "--resume") == 0
    assert len(calls) == 4 + 3
    assert sorted(path.name for path in out.iterdir()) == ["detections.csv", "evaluation.json"]
    assert (out / "detections.csv").read_bytes() == (tmp_path / "straight" / "detections.csv").read_bytes()
    assert run(*options, out, "--resume") == 0
    assert len(calls) == 7
    assert (tmp_path / "straight" / "evaluation.json").read_text() == (out / "evaluation.json").read_text()


def test_networks_averaged_at_once_and_their_files_averaged_are_the_same(data, small, tmp_path):
    save_model(network(1, frames=8, frame_stride=8), tmp_path / "other.safetensors", model_name=NAME)
    each = (small, tmp_path / "other.safetensors")
    for name, weights in (("a", each[:1]), ("b", each[1:]), ("both", each)):
        models = [part for path in weights for part in ("--model", NAME, "--weights", path)]
        where = ("-o", tmp_path / name, "-q", "--json", tmp_path / f"{name}.json")
        assert run("evaluate", "ava", "--data", data, *models, "--scales", "32,40", "--flip", *where) == 0
    files = [part for name in "ab" for part in ("--predictions", tmp_path / name / "detections.csv")]
    mean = ("-o", tmp_path / "mean", "-q", "--json", tmp_path / "mean.json")
    assert run("evaluate", "ava", "--data", data, *files, *mean) == 0
    found, expected = (read_detections(tmp_path / name / "detections.csv") for name in ("mean", "both"))
    assert found.videos == expected.videos
    assert np.array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert np.allclose(found.scores, expected.scores, atol=2e-6)
    scores = {name: json.loads((tmp_path / f"{name}.json").read_text())["mAP"] for name in ("a", "both", "mean")}
    assert scores["mean"] == pytest.approx(scores["both"], abs=1e-9)
    assert json.loads((tmp_path / "both.json").read_text())["model"] == f"{NAME} + {NAME}"


def test_some_videos_and_a_split_without_annotations(data, small, tmp_path, capsys):
    options = ("--data", data, "--model", NAME, "--weights", small, "--size", 32, "-q")
    assert run("evaluate", "ava", *options, "--sequences", "two", "--json", tmp_path / "two.json") == 0
    scores = json.loads((tmp_path / "two.json").read_text())
    assert scores["coverage"] == "3 of 3 annotated keyframes have detections"
    assert "has no video 'three'" in fails(capsys, "evaluate", "ava", *options, "--sequences", "three")
    boxes = data / "annotations" / "ava_val_predicted_boxes.csv"
    test = (*options, "--split", "test", "--boxes", boxes)
    assert "holds no ava_test_v2.2.csv" in fails(capsys, "evaluate", "ava", *test)
    assert run("evaluate", "ava", *test, "-o", tmp_path / "out", "--json", tmp_path / "test.json") == 0
    document = json.loads((tmp_path / "test.json").read_text())
    assert "mAP" not in document
    assert "send" in document["notes"][0]
    assert len(read_detections(tmp_path / "out" / "detections.csv")) > 0


def test_what_cannot_be_run_is_one_line(data, small, tmp_path, capsys):
    options = ("--data", data, "--model", NAME, "--weights", small, "--size", 32, "-q")
    files = ("--predictions", "x.csv", "--data", data)

    def said(*arguments):
        return fails(capsys, "evaluate", "ava", *arguments)

    assert "--model and --data to run, not both" in said(*options, "--predictions", "x.csv")
    assert "--flip belongs to a run of a --model" in said(*files, "--flip")
    assert "where is AVA? give --data DIR" in said(*options[2:])
    assert "2 networks with 3 weights" in said(*options, "--model", NAME, "--weights", small, "--weights", small)
    assert "threshold=2" in said(*options, "--threshold", 2)
    assert "none of its 17 rows has a score of at least 0.99" in said(*options, "--threshold", 0.99)
    assert "made for the task classify" in said("--data", data, "--model", "slow_r50_4x16", "--weights", "random")
    rules = ("--rules", "coco", "-o", tmp_path / "out")
    assert "'coco' is not one of 'activitynet', 'pyslowfast'" in said(*options, *rules)
    assert "to resume, give the folder" in said(*options, "--resume")
    more = tmp_path / "map.pbtxt"
    more.write_text(MAP + 'item { name: "last" id: 9 }\n')
    assert "label map has class 9, but slow_r50_4x16_ava with these weights has 4 classes" in said(
        *options, "--labels", more
    )
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"three,0902,{BOXES[0]},,0.9\n")
    assert "1 of 1 videos are missing, the first is three" in said(*options, "--boxes", boxes)
    boxes.write_text(f"two,1700,{BOXES[0]},,0.9\n")
    assert "keyframe at second 1700 is out of range" in said(*options, "--boxes", boxes)
    boxes.write_text(f"one,1700,{BOXES[0]},,0.9\n")
    assert "keyframe at second 1700 is out of range" in said(*options, "--boxes", boxes)
    boxes.write_text(f"two,0902,{BOXES[0]},99,0.9\n")
    assert "boxes.csv:1: unknown class 99" in said(*options, "--boxes", boxes)
    assert not (tmp_path / "out").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no ava_val_v2.2.csv" in said("--data", empty, *options[2:])
    truth = ("--ground-truth", data / "annotations" / "ava_val_v2.2.csv")
    assert "holds no boxes of people: neither ava_val_predicted_boxes.csv nor" in said(
        "--data", empty, *options[2:], *truth
    )


def test_clips_of_different_lengths_share_their_middle(data):
    class Watcher(torch.nn.Module):
        num_classes = 4

        def __init__(self, frames: int, frame_stride: int) -> None:
            super().__init__()
            self.frames, self.frame_stride, self.clips = frames, frame_stride, []

        def forward(self, clip, boxes):
            self.clips.append(clip)
            return torch.zeros(len(boxes[0]), 4)

    watchers = [Watcher(4, 2), Watcher(8, 2), Watcher(4, 5)]
    keyframe = Keyframe("two", 902.0, np.array([[0.1, 0.1, 0.6, 0.9]]), np.ones(1), ((),))
    frames = AvaFrames(data)
    together = BoxActions(watchers, scales=(32,))
    list(score_keyframes([keyframe], frames, together))
    for watcher in watchers:
        alone = Watcher(watcher.frames, watcher.frame_stride)
        list(score_keyframes([keyframe], frames, BoxActions(alone, scales=(32,))))
        assert torch.equal(watcher.clips[0], alone.clips[0])
    with pytest.raises(InputError, match="a clip of 5 frames has no middle"):
        list(score_keyframes([keyframe], frames, BoxActions(Watcher(5, 2))))


def test_a_run_needs_no_folder_and_leaves_none(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = evaluate_ava_model(data, model=network(0), scales=(32,), videos=["two"])
    assert set(report.scores["class_AP"]) == {"action 1", "action 3", "action 4"}
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")]  # torch's own cache


PROCESS = """
import sys
from twospeed.cli.main import exit_code
sys.exit(exit_code(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_print_one_table(data, small, tmp_path, capfd):
    """Each computes its share of the keyframes; the file and the table are those of one process."""
    command = ["evaluate", "ava", "--data", data, "--model", NAME, "--weights", small, "--scales", "32", "-o"]
    run_processes(PROCESS, *map(str, command), str(tmp_path / "both"))
    both = capfd.readouterr().out
    assert exit_code([*map(str, command), str(tmp_path / "one")]) == 0
    one = capfd.readouterr().out
    assert scores_in(both) == scores_in(one) != []
    files = [(tmp_path / run / "detections.csv").read_bytes() for run in ("both", "one")]
    assert files[0] == files[1]
    assert not (tmp_path / "both" / "parts").exists()


def scores_in(text: str) -> list[str]:
    """The lines of a printed table that hold numbers of classes and their mean."""
    return [line for line in text.splitlines() if line.strip().startswith(("mAP", "action"))]


# ------------------------------------------------------------------------------------------------ averaging files

ROWS = st.dictionaries(
    st.tuples(st.sampled_from(["v", "w"]), st.integers(900, 902), st.integers(0, 2), st.integers(1, 3)),
    st.integers(0, 1000).map(lambda n: n / 1000),
    min_size=1,
    max_size=12,
)


def rows_of(name: str, content: dict[tuple[str, int, int, int], float], shift: float = 0.0) -> BoxRows:
    videos, seconds, boxes, actions = zip(*content, strict=True)
    corners = np.array([[0.1 * box + shift, 0.1, 0.5 + 0.1 * box, 0.9] for box in boxes])
    return BoxRows(
        Path(name),
        np.arange(1, len(content) + 1),
        videos,
        np.array(seconds, float),
        corners,
        np.array(actions),
        np.full(len(content), -1),
        np.array(list(content.values())),
    )


@settings(max_examples=30, deadline=None)
@given(first=ROWS, second=ROWS)
def test_means_are_over_files_and_what_is_missing_counts_as_zero(first, second):
    files = [rows_of("a.csv", first), rows_of("b.csv", second, shift=1e-7)]
    if not {key[:3] for key in first} & {key[:3] for key in second}:
        with pytest.raises(DatasetError, match=r"b\.csv: shares no box with a\.csv"):
            average_detections(files)
        return
    mean, notes = average_detections(files)
    keys = list(zip(mean.videos, mean.seconds, (mean.boxes_xyxy[:, 0] * 10).round(), mean.actions, strict=True))
    expected = {key: (first.get(key, 0) + second.get(key, 0)) / 2 for key in {**first, **second}}
    assert dict(zip(keys, mean.scores, strict=True)) == pytest.approx(expected)
    assert len(keys) == len(expected)
    assert len(notes) == (first.keys() != expected.keys()) + (second.keys() != expected.keys())


def test_averaged_rows_are_written_as_they_are_scored():
    content = {("v", 900, 0, 1): 1 / 3, ("v", 901, 1, 2): 0.5}
    mean, _ = average_detections([rows_of("a.csv", content), rows_of("b.csv", content)])
    file = io.StringIO()
    write_rows(file, mean)
    assert file.getvalue().splitlines() == [
        "v,0900,0.000000,0.100000,0.500000,0.900000,1,0.333333",
        "v,0901,0.100000,0.100000,0.600000,0.900000,2,0.500000",
    ]
