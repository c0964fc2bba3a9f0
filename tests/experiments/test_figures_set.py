"""The generated set of figures: AVA's own files, labels that follow from motion, nothing to see in a single image."""

import dataclasses

import numpy as np
import pytest

from experiments import figures_set as figures
from experiments.figures_set import ANSWERS, CALLED, JUMP, LEFT, MEETS, RIGHT, STAND, WAVE
from twospeed.data.benchmarks.ava import (
    find_annotations,
    read_exclusions,
    read_ground_truth,
    read_label_map,
    read_predicted_boxes,
)
from twospeed.data.benchmarks.ava_frames import AvaFrames
from twospeed.data.benchmarks.ava_keyframes import keyframes_of, with_proposals
from twospeed.errors import InputError, OutputError


def scene(seed, *own):
    """A scene with figures that do this."""
    drawn = figures.draw_scene(np.random.default_rng(seed))
    template = drawn[0]
    return [
        dataclasses.replace(template, own=action, x=place) for action, place in zip(own, figures.PLACES, strict=False)
    ]


@pytest.mark.parametrize(
    ("own", "actions"),
    [
        ((STAND, STAND), [(STAND,), (STAND,)]),
        ((WAVE, STAND, JUMP), [(WAVE,), (STAND, CALLED), (JUMP, CALLED, ANSWERS)]),
        ((LEFT, RIGHT, LEFT), [(LEFT, MEETS), (RIGHT, MEETS), (LEFT, MEETS)]),
        ((LEFT, LEFT, JUMP), [(LEFT,), (LEFT,), (JUMP,)]),
        ((RIGHT, WAVE), [(RIGHT, CALLED), (WAVE,)]),
    ],
)
def test_what_a_figure_does_follows_from_all_of_them(own, actions):
    assert figures.actions_of(scene(0, *own)) == actions


def test_the_keyframe_alone_says_nothing():
    for seed in range(20):
        drawn = figures.draw_scene(np.random.default_rng(seed))
        images = [
            figures.render(np.random.default_rng(seed), [dataclasses.replace(f, own=own) for f in drawn], 5)[2]
            for own in figures.OWN
        ]
        assert all((image == images[0]).all() for image in images)


def test_other_frames_say_it():
    for own, moves in ((LEFT, (-1, 0)), (RIGHT, (1, 0)), (STAND, (0, 0))):
        (figure, _) = scene(3, own, STAND)
        dx, dy, _ = figure.shift(3.0)
        assert (np.sign(dx), np.sign(dy)) == moves
    jump, wave = scene(3, JUMP, WAVE)
    heights = [jump.shift(t)[1] for t in np.linspace(-4, 4, 50)]
    sideways = [wave.shift(t)[0] for t in np.linspace(-4, 4, 50)]
    assert np.ptp(heights) > 5
    assert np.ptp(sideways) > 4
    assert {jump.shift(t)[0] for t in range(5)} == {0.0}


def test_boxes_lie_on_their_figures():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        drawn = figures.draw_scene(rng)
        with_them, without = (
            figures.render(np.random.default_rng(seed), found, 1)[0].astype(int) for found in (drawn, [])
        )
        changed = np.abs(with_them - without).max(axis=2) > 20
        inside = np.zeros_like(changed)
        for figure in drawn:
            x1, y1, x2, y2 = np.rint(figure.box).astype(int)
            inside[max(y1, 0) : y2, max(x1, 0) : x2] = True
        assert changed[inside].mean() > 0.4
        assert changed[inside].sum() > 0.85 * changed.sum()  # hands may stick out


@pytest.mark.parametrize("images", [False, True])
def test_the_set_is_in_avas_layout(tmp_path, images):
    figures.write_figures_set(tmp_path, keyframes=23, val_keyframes=3, images=images)
    labels = read_label_map(find_annotations(tmp_path, "train")["labels"])
    assert labels == figures.ACTIONS
    for split, count in (("train", 23), ("val", 3)):
        files = find_annotations(tmp_path, split)
        excluded = read_exclusions(files["exclusions"])
        truth = keyframes_of(read_ground_truth(files["ground_truth"], labels=labels), excluded=excluded)
        assert len(truth) == count
        predicted = read_predicted_boxes(tmp_path / "annotations" / f"ava_{split}_predicted_boxes.csv")
        people = keyframes_of(predicted, threshold=0.8, excluded=excluded)
        assert sum(map(len, with_proposals(truth, people, iou=0.75))) > 1.5 * sum(map(len, truth))
        frames = AvaFrames(tmp_path)
        frames.check([*truth, *people])
        for keyframe in truth[-2:]:
            clip = frames.clip(keyframe.video, keyframe.second, 8, 3)
            assert clip.shape == (8, figures.HEIGHT, figures.WIDTH, 3)
            moving = {a for actions in keyframe.actions for a in actions} & {LEFT, RIGHT, JUMP, WAVE}
            still = np.abs(clip.astype(int) - clip[4]).max(axis=(1, 2, 3))
            assert (still[[0, -1]].max() > 60) == bool(moving)


def test_a_larger_set_contains_the_smaller_one(tmp_path):
    for name, count in (("small", 5), ("large", 8)):
        figures.write_figures_set(tmp_path / name, keyframes=count, val_keyframes=1, seed=3)
    small, large = (
        (tmp_path / name / "annotations" / "ava_train_v2.2.csv").read_text().splitlines() for name in ("small", "large")
    )
    assert small == large[: len(small)]
    assert len(large) > len(small)


def test_what_makes_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs at least 1 keyframe in each part, got keyframes=0"):
        figures.write_figures_set(tmp_path, keyframes=0)
    with pytest.raises(InputError, match=r"own=\[5\]: choose from"):
        figures.write_figures_set(tmp_path, own=(WAVE,))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="the set cannot be written"):
        figures.write_figures_set(tmp_path / "file", keyframes=1, val_keyframes=1)
