"""Scoring folders of masks: the official numbers, every kind of mask file, and what is said of incomplete results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import GOLDENS, require_data
from tests.data.vos_trees import (
    moving_squares,
    write_davis,
    write_grey,
    write_mask,
    write_results,
    write_youtube_vos,
)
from tests.metrics.test_regions import plain_f, plain_j
from twospeed.errors import DatasetError, InputError
from twospeed.evaluation.vos import evaluate_davis, evaluate_youtube_vos
from twospeed.metrics.regions import tolerance_pixels

GOLDEN = GOLDENS / "davis_metric"
OFFICIAL_NAMES = {
    "J-Mean": "J_mean",
    "J-Recall": "J_recall",
    "J-Decay": "J_decay",
    "F-Mean": "F_mean",
    "F-Recall": "F_recall",
    "F-Decay": "F_decay",
}


def golden_tree(folder: Path, results: str) -> tuple[Path, Path]:
    """The recorded case as a DAVIS-2017 folder, with both kinds of annotations, and its results."""
    case = GOLDEN / "synthetic_three_objects"
    root, predictions = folder / "davis", folder / "results"
    for kind in ("Annotations", "Annotations_unsupervised"):
        target = root / kind / "480p" / "three_objects"
        target.mkdir(parents=True)
        for path in (case / "annotations").glob("*.png"):
            (target / path.name).write_bytes(path.read_bytes())
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("three_objects\n")
    (predictions / "three_objects").mkdir(parents=True)
    for path in (case / results).glob("*.png"):
        (predictions / "three_objects" / path.name).write_bytes(path.read_bytes())
    return root, predictions


@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_davis17_equals_the_official_scorer(tmp_path: Path, task: str):
    unsupervised = task == "unsupervised"
    root, predictions = golden_tree(tmp_path, "results_unsup" if unsupervised else "results_semi")
    report = evaluate_davis(root, 2017, predictions=predictions, task=task)
    expected = json.loads((GOLDEN / "synthetic_three_objects/scores.json").read_text())["tasks"][task]
    for ours, theirs in {**OFFICIAL_NAMES, "J&F-Mean": "JF_mean"}.items():
        assert report.scores["global"][ours] == pytest.approx(expected["global"][theirs], abs=1e-6)
    # The official rows follow the proposals; ours the objects.
    object_of_row = [k for _, k in expected["matched_proposal_object"]] if unsupervised else [1, 2, 3]
    assert list(report.scores["sequences"]) == [f"three_objects_{k}" for k in (1, 2, 3)]
    for k, row in zip(object_of_row, expected["per_object"], strict=True):
        for ours, theirs in OFFICIAL_NAMES.items():
            assert report.scores["sequences"][f"three_objects_{k}"][ours] == pytest.approx(row[theirs], abs=1e-6)
    if unsupervised:
        matched = {f"three_objects_{k}": p for p, k in expected["matched_proposal_object"]}
        assert report.scores["matched_proposals"] == matched
    assert report.coverage == "1 of 1 sequences (DAVIS-2017 val)"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_davis16_equals_the_official_scorer_on_real_masks(davis16: Path, task: str):
    report = evaluate_davis(davis16, 2016, predictions=require_data("davis16", "osvos_results"), task=task)
    expected = json.loads((GOLDEN / "osvos_visible14.json").read_text())[task]
    assert report.coverage == "14 of 20 sequences (DAVIS-2016 val)"
    for ours, theirs in {**OFFICIAL_NAMES, "J&F-Mean": "JF_mean"}.items():
        assert report.scores["global"][ours] == pytest.approx(expected["global"][theirs], abs=1e-6)
        for name, row in expected["per_sequence"].items():
            assert report.scores["sequences"][name][ours] == pytest.approx(row[theirs], abs=1e-6)


def random_labels(rng: np.random.Generator, size: tuple[int, int], objects: int) -> np.ndarray:
    """Rectangles that often reach the image's edges, cover each other, or are missing."""
    labels = np.zeros(size, np.uint8)
    for k in range(1, objects + 1):
        y, x = (rng.integers(-3, side + 3, 2) for side in size)
        labels[max(0, y.min()) : max(0, y.max()), max(0, x.min()) : max(0, x.max())] = k
    return labels


def write_in_some_form(path: Path, labels: np.ndarray, form: str) -> None:
    """Save a mask of one object as people do: palette of 0 and 1, grey, black and white, or grey saved as colour."""
    if form == "palette":
        write_mask(path, labels)
        return
    write_grey(path, labels)
    if form != "grey":
        with Image.open(path) as image:
            image.convert({"bits": "1", "colour": "RGB"}[form]).save(path)


@pytest.mark.parametrize("workers", [1, 3])
def test_davis16_equals_the_plain_formulas_on_masks_of_every_form(tmp_path: Path, workers: int):
    rng = np.random.default_rng(0)
    forms = ("palette", "grey", "bits", "colour")
    expected: list[list[float]] = [[], []]
    for t in range(21):
        size = (22, 31) if t < 13 else (34, 27)  # the video changes its size
        result, annotation = (random_labels(rng, size, 1) for _ in range(2))
        if t == 0:
            annotation[3:9, 4:8] = 1
        write_in_some_form(tmp_path / f"results/dog/{t:05d}.png", result, forms[t % 4])
        write_in_some_form(tmp_path / f"davis/Annotations/480p/dog/{t:05d}.png", annotation, forms[t // 2 % 4])
        if 0 < t < 20:
            pair = result > 0, annotation > 0
            expected[0].append(plain_j(*pair))
            expected[1].append(plain_f(*pair, tolerance_pixels(*size)))
    report = evaluate_davis(tmp_path / "davis", 2016, predictions=tmp_path / "results", workers=workers)
    scores = report.scores["sequences"]["dog"]
    for name, values in zip("JF", expected, strict=True):
        assert len(set(values)) > 3
        assert scores[f"{name}-Mean"] == pytest.approx(np.mean(values), abs=1e-12)
        assert scores[f"{name}-Recall"] == pytest.approx(np.mean(np.array(values) > 0.5), abs=1e-12)


def test_davis17_equals_the_plain_formulas_for_several_objects_and_void(tmp_path: Path):
    rng = np.random.default_rng(1)
    expected = np.zeros((2, 7, 11))
    for t in range(13):
        result, annotation = (random_labels(rng, (30, 41), 7) for _ in range(2))
        if t == 0:
            annotation[0, 0] = 7
        annotation[12:15, 20 + t : 24 + t] = 255
        write_mask(tmp_path / f"results/dog/{t:05d}.png", result)
        write_mask(tmp_path / f"davis/Annotations/480p/dog/{t:05d}.png", annotation)
        for k in range(7) if 0 < t < 12 else ():
            pair = result == k + 1, annotation == k + 1
            expected[:, k, t - 1] = plain_j(*pair), plain_f(*pair, tolerance_pixels(30, 41))
    report = evaluate_davis(tmp_path / "davis", 2017, predictions=tmp_path / "results")
    for k, (j, f) in enumerate(expected.mean(2).T, start=1):
        scores = report.scores["sequences"][f"dog_{k}"]
        assert (scores["J-Mean"], scores["F-Mean"]) == (pytest.approx(j, abs=1e-12), pytest.approx(f, abs=1e-12))


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_colours_and_16_bits_are_refused_by_name(davis17: tuple[Path, Path, dict[str, np.ndarray]], mode: str):
    root, results, labels = davis17
    path = results / "dog/00002.png"
    if mode == "RGB":
        Image.fromarray(np.stack([labels["dog"][2] * 90, *[labels["dog"][2]] * 2], axis=2)).save(path)
    else:
        Image.fromarray(labels["dog"][2].astype(np.uint16) * 300).save(path)
    with pytest.raises(DatasetError, match=rf"dog/00002\.png: an image of mode {mode}, not a label map"):
        evaluate_davis(root, 2017, predictions=results)


@pytest.fixture
def davis17(tmp_path: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A small set, results that equal its annotations, and the labels."""
    labels = {"dog": moving_squares(6, 2), "cows": moving_squares(5, 1, seed=1)}
    return write_davis(tmp_path / "davis", labels, images=False), write_results(tmp_path / "results", labels), labels


def test_the_annotations_score_one(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, _ = davis17
    report = evaluate_davis(root, 2017, predictions=results)
    assert set(report.scores["sequences"]) == {"dog_1", "dog_2", "cows_1"}
    assert report.scores["global"]["J&F-Mean"] == 1.0
    assert report.notes == ()


def test_only_frames_that_count_are_needed(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, _ = davis17
    (results / "dog/00000.png").unlink()
    (results / "dog/00005.png").unlink()
    assert evaluate_davis(root, 2017, predictions=results).scores["global"]["J-Mean"] == 1.0
    (results / "dog/00003.png").unlink()
    with pytest.raises(DatasetError, match=r"dog: 1 of 4 frames are missing: 00003\.png"):
        evaluate_davis(root, 2017, predictions=results)


def test_missing_sequences_are_named_and_can_be_left_out(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, _ = davis17
    for path in (results / "cows").iterdir():
        path.unlink()
    (results / "cows").rmdir()
    with pytest.raises(DatasetError, match=r"no results for 1 of 2 sequences \(cows\); it holds dog; score a part"):
        evaluate_davis(root, 2017, predictions=results)
    report = evaluate_davis(root, 2017, predictions=results, sequences=["dog"])
    assert set(report.scores["sequences"]) == {"dog_1", "dog_2"}


def test_fewer_objects_are_completed_and_said_so(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, labels = davis17
    write_results(results, {"dog": np.where(labels["dog"] == 2, 0, labels["dog"])})
    report = evaluate_davis(root, 2017, predictions=results)
    assert report.scores["sequences"]["dog_1"]["J-Mean"] == 1.0
    assert report.scores["sequences"]["dog_2"]["J-Mean"] == 0.0
    assert report.notes == ("dog: no result holds object 2 of 2; scored as empty masks",)


def test_an_object_that_was_not_given_is_refused(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, labels = davis17
    write_mask(results / "dog/00002.png", np.where(labels["dog"][2] == 2, 7, labels["dog"][2]).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"dog/00002\.png: holds object 7, but dog has only 1, 2"):
        evaluate_davis(root, 2017, predictions=results)


def test_masks_of_another_size_are_refused(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, labels = davis17
    write_mask(results / "dog/00002.png", labels["dog"][2][::2, ::2])
    with pytest.raises(DatasetError, match=r"dog/00002\.png: 32x24 pixels, its annotation is 64x48"):
        evaluate_davis(root, 2017, predictions=results)


def test_a_cut_file_is_named(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, _ = davis17
    path = results / "dog/00003.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r"dog/00003\.png: is not an image"):
        evaluate_davis(root, 2017, predictions=results)


def test_more_than_twenty_proposals_are_refused(tmp_path: Path):
    labels = {"dog": moving_squares(4, 2)}
    root = write_davis(tmp_path / "davis", labels, kind="Annotations_unsupervised", images=False)
    results = write_results(tmp_path / "results", labels)
    assert evaluate_davis(root, 2017, predictions=results, task="unsupervised").scores["global"]["F-Mean"] == 1.0
    write_mask(results / "dog/00001.png", np.where(labels["dog"][1] > 0, 21, 0).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"00001\.png: holds proposal 21; at most 20 are allowed"):
        evaluate_davis(root, 2017, predictions=results, task="unsupervised")


def test_fewer_proposals_than_objects_are_completed(tmp_path: Path):
    labels = {"dog": moving_squares(4, 2)}
    root = write_davis(tmp_path / "davis", labels, kind="Annotations_unsupervised", images=False)
    results = write_results(tmp_path / "results", {"dog": (labels["dog"] == 2).astype(np.uint8)})
    report = evaluate_davis(root, 2017, predictions=results, task="unsupervised")
    assert report.scores["sequences"]["dog_2"]["J-Mean"] == 1.0
    assert report.scores["sequences"]["dog_1"]["J-Mean"] == 0.0
    assert report.scores["matched_proposals"]["dog_2"] == 1
    assert report.notes == ("dog: 1 proposals for 2 objects; completed with empty masks",)


def test_davis16_takes_masks_of_every_kind(tmp_path: Path):
    labels = moving_squares(6, 3)
    root = write_davis(tmp_path / "davis", {"dog": labels}, year=2016, images=False)
    kinds = {
        "palette": write_mask,
        "grey": write_grey,
        "binary": lambda path, mask: write_grey(path, mask, white=1),
        "bits": lambda path, mask: Image.fromarray(mask > 0).save(path),
    }
    for kind, save in kinds.items():
        folder = tmp_path / kind
        (folder / "dog").mkdir(parents=True)
        for t, mask in enumerate(labels):
            save(folder / "dog" / f"{t:05d}.png", mask)
        for task in ("semi-supervised", "unsupervised"):
            report = evaluate_davis(root, 2016, predictions=folder, task=task)
            assert report.scores["global"]["J&F-Mean"] == 1.0, (kind, task)
            assert set(report.scores["sequences"]) == {"dog"}


def test_an_unmarked_first_frame_and_a_short_sequence_are_explained(tmp_path: Path):
    root = write_davis(tmp_path / "a", {"dog": moving_squares(2, 1)}, images=False)
    results = write_results(tmp_path / "results", {"dog": moving_squares(2, 1)})
    with pytest.raises(DatasetError, match="dog: has 2 frames; first and last are left out"):
        evaluate_davis(root, 2017, predictions=results)
    root = write_davis(tmp_path / "b", {"dog": np.zeros((4, 48, 64), np.uint8)}, images=False)
    with pytest.raises(DatasetError, match=r"00000\.png: marks no object"):
        evaluate_davis(root, 2017, predictions=results)


def test_withheld_annotations_cannot_be_scored_here(tmp_path: Path):
    labels = {"dog": moving_squares(4, 1)}
    root = write_davis(tmp_path / "davis", labels)
    results = write_results(tmp_path / "results", labels)
    for t in (1, 2, 3):
        (root / f"Annotations/480p/dog/{t:05d}.png").unlink()
    with pytest.raises(DatasetError, match=r"dog: 3 of 4 frames have no annotation .* scored by their server"):
        evaluate_davis(root, 2017, predictions=results, split="test-dev")


def test_what_is_evaluated_must_be_said(davis17: tuple[Path, Path, dict[str, np.ndarray]]):
    root, results, _ = davis17
    with pytest.raises(InputError, match=r"give either predictions .* or a model .*, not neither"):
        evaluate_davis(root, 2017)
    with pytest.raises(InputError, match=r"not both"):
        evaluate_davis(root, 2017, predictions=results, model="stcn")


def test_youtube_vos_counts_each_object_after_its_first_mask(tmp_path: Path):
    labels = moving_squares(21, 2, starts={2: 10})
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog", 2: "unicorn"}})
    results = write_results(tmp_path / "results", {"aa": labels}, every=5)
    broken = labels[15].copy()
    broken[broken == 2] = 0
    write_mask(results / "aa/00015.png", broken)  # object 2 is scored at 15 and 20
    write_mask(results / "aa/00000.png", np.zeros_like(broken))  # not scored: given
    report = evaluate_youtube_vos(root, predictions=results)
    assert report.scores["J_seen"] == report.scores["F_seen"] == 1.0
    assert report.scores["J_unseen"] == report.scores["F_unseen"] == 0.5
    assert report.scores["G"] == 0.75
    assert report.coverage == "1 of 1 videos (meta.json of valid)"


def test_youtube_vos_without_unseen_objects_says_so_and_writes_null(tmp_path: Path):
    labels = moving_squares(11, 1)
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog"}})
    report = evaluate_youtube_vos(root, predictions=write_results(tmp_path / "results", {"aa": labels}, every=5))
    document = report.to_json()
    assert document["J_unseen"] is None
    assert document["G"] == 1.0
    assert "unseen" in report.notes[0]
    json.dumps(document, allow_nan=False)


def test_youtube_vos_ids_may_have_holes(tmp_path: Path):
    labels = moving_squares(11, 2)
    labels[labels == 2] = 9
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog", 9: "cat"}})
    results = write_results(tmp_path / "results", {"aa": labels}, every=5)
    report = evaluate_youtube_vos(root, predictions=results)
    assert report.scores["objects"]["aa_9"] == {"J-Mean": 1.0, "F-Mean": 1.0}


def test_youtube_vos_validation_masks_are_withheld(tmp_path: Path):
    labels = moving_squares(11, 1)
    root = write_youtube_vos(tmp_path / "yt", {"aa": labels}, {"aa": {1: "dog"}}, public=False)
    results = write_results(tmp_path / "results", {"aa": labels}, every=5)
    with pytest.raises(DatasetError, match=r"aa: 2 of 2 frames have no annotation .* server"):
        evaluate_youtube_vos(root, predictions=results)
