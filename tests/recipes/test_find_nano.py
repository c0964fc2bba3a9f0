"""Training of the network that finds objects: samples hold what they say, runs resume exactly, the loss falls."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from tests.recipes.runs import check_resumed_equals_whole
from twospeed.data.clips.primary import PrimaryObjects
from twospeed.data.clips.synthetic import MovingObjects
from twospeed.errors import InputError
from twospeed.models.find.builders import find_nano
from twospeed.ops.motion import OFFSETS, PLANES
from twospeed.recipes import find_nano as recipe
from twospeed.recipes.find_nano import FindNanoConfig, main_objects, train
from twospeed.weights.load import create_model


def draw_disc(t: int, colour: int) -> tuple[np.ndarray, np.ndarray]:
    ground = np.random.default_rng(0).integers(0, 90, (72, 128, 3), dtype=np.uint8)
    mask = np.zeros((72, 128), np.uint8)
    cv2.circle(mask, (40 + 2 * t, 36), 15, 255, -1)
    ground[mask > 0] = colour
    return ground, mask


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    for number, name in enumerate(("ball", "kept")):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "72p" / name).mkdir(parents=True)
        for t in range(9):
            image, mask = draw_disc(t, 150 + 60 * number)
            cv2.imwrite(str(root / "JPEGImages/72p" / name / f"{t:05d}.jpg"), image)
            cv2.imwrite(str(root / "Annotations/72p" / name / f"{t:05d}.png"), mask)
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Three images: one with a large and a small object, one with two of a size, one annotated in part."""
    root = tmp_path_factory.mktemp("coco")
    (root / "images").mkdir()
    boxes = {0: [(10, 10, 60, 60), (100, 70, 20, 20)], 1: [(10, 10, 40, 40), (80, 30, 40, 40)], 2: [(20, 20, 60, 60)]}
    images, annotations = [], []
    for number, objects in boxes.items():
        image = np.random.default_rng(number).integers(0, 90, (100, 140, 3), dtype=np.uint8)
        for x, y, width, height in objects:
            image[y : y + height, x : x + width] += 150
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append({"image_id": number, "segmentation": [corners], "area": width * height, "iscrowd": 0})
        cv2.imwrite(str(root / "images" / f"{number}.jpg"), image)
        entry = {"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 140, "partial": number == 2}
        images.append(entry)
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


@pytest.fixture
def tiny(davis, coco, tmp_path, monkeypatch) -> FindNanoConfig:
    # The ImageNet package is for trainings alone: random weights serve here
    monkeypatch.setattr(recipe, "imagenet_weights", lambda encoder: encoder.state_dict())
    return FindNanoConfig(
        davis=davis, coco=coco, held_out=("kept",), out=tmp_path / "run", minutes=None, iterations=4, batch=2,
        crop=(64, 96), large_crop=(64, 128), workers=0, log_every=1, validate_every=4,
    )  # fmt: skip


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path):
    check_resumed_equals_whole(train, tiny, tmp_path / "halves")
    assert create_model("find_nano", tiny.out / "weights.safetensors").slow.channels == [24, 40, 112, 320]
    header = (tiny.out / "validation.csv").read_text().splitlines()[0]
    assert header == "step,minutes,jaccard,kept"  # the held-out sequence alone


def test_held_out_sequences_are_not_trained_on(tiny):
    assert [video.name for video in recipe.videos_of(tiny, held_out=False)] == ["ball"]
    assert [video.name for video in recipe.videos_of(tiny, held_out=True)] == ["kept"]


def test_the_first_stages_stay_as_imagenet_taught_them(tiny):
    model = find_nano()
    learned = {id(p) for group in recipe.parts_to_train(model, tiny) for p in group["params"]}  # type: ignore[attr-defined]
    kept = {name for name, p in model.named_parameters() if id(p) not in learned}
    first = ("slow.stem", "slow.stages.0.", "slow.stages.1.")
    assert kept == {name for name, _ in model.named_parameters() if name.startswith(first)}


def test_a_few_steps_on_the_same_samples_bring_the_loss_down(tiny):
    torch.manual_seed(0)
    samples = recipe.Samples(tiny)
    images, motion, masks = recipe.collate([samples[i, False] for i in range(2)])
    assert images.shape == (2, 3, 64, 96)
    assert motion.shape == (2, len(OFFSETS) * PLANES, 32, 48)
    model = find_nano()
    optimizer = torch.optim.AdamW(recipe.parts_to_train(model, tiny), lr=1e-3)
    losses = []
    for _ in range(24):
        loss, parts = recipe.step_loss(model, images.float() / 255, motion, masks, tiny)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(parts["loss"])
    assert losses[-1] < 0.8 * losses[0]


def test_an_image_is_about_its_largest_objects(coco):
    """The small one is not primary, two of a size both are, an image annotated in part is left out."""
    shares = [int(mask.sum()) for _, mask in main_objects(coco)]
    assert shares == pytest.approx([60 * 60, 2 * 40 * 40], rel=0.1)


def test_samples_of_all_kinds_show_their_object(davis, coco, tiny):
    objects = [draw_disc(0, 200)]
    made = MovingObjects([one[0] for one in objects], [one[1] for one in objects])
    for shares in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        source = PrimaryObjects(recipe.videos_of(tiny, held_out=False), main_objects(coco), made, shares=shares)
        for seed in range(4):
            sample = source.draw(np.random.default_rng(seed), (64, 96))
            assert sample.image.shape == (64, 96, 3)
            assert sample.motion.shape == (12, 32, 48)
            assert sample.mask.sum() > 0.002 * sample.mask.size


def test_mirrored_samples_mirror_their_motion(davis, tiny):
    """The disc moves to the right in all frames: with its motion mirrored, to the left."""
    source = PrimaryObjects(recipe.videos_of(tiny, held_out=False))
    along = []
    for seed in range(12):
        sample = source.draw(np.random.default_rng(seed), (64, 96))
        inside = sample.mask[::2, ::2] > 0
        along.append(float(sample.motion.reshape(4, 3, 32, 48)[1:3, 0][:, inside].mean()))
    assert min(along) < -0.2
    assert max(along) > 0.2


def test_settings_that_make_no_training_are_refused():
    with pytest.raises(InputError, match="batch 3 cannot be shared by 2 replicas"):
        FindNanoConfig(batch=3)
    with pytest.raises(InputError, match=r"crop is \(100, 96\) pixels"):
        FindNanoConfig(crop=(100, 96))
    with pytest.raises(InputError, match="give one and set the other to None"):
        FindNanoConfig(iterations=4)
    with pytest.raises(InputError, match="no videos or images to draw from"):
        PrimaryObjects([])
    empty = [(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8))]
    with pytest.raises(InputError, match="20 draws gave nothing to train on: they showed no object"):
        PrimaryObjects([], empty).draw(np.random.default_rng(0), (64, 96))
