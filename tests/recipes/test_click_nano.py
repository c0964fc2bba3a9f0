"""Training of the click network: it learns, restarts exactly, and leaves weights that load."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from tests.recipes.runs import check_resumed_equals_whole
from twospeed.data.clips.prompted import PromptedObjects, first_prompts
from twospeed.errors import InputError
from twospeed.models.click.builders import click_nano
from twospeed.recipes import click_nano as recipe
from twospeed.recipes.click_nano import ClickNanoConfig, train
from twospeed.weights.load import create_model


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(3):
        image = rng.integers(0, 90, (100, 140, 3), dtype=np.uint8)
        x, y = int(rng.integers(20, 60)), int(rng.integers(20, 50))
        image[y : y + 30, x : x + 40] += 150
        cv2.imwrite(str(root / "images" / f"{number}.jpg"), image)
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 140})
        polygon = [x, y, x + 40, y, x + 40, y + 30, x, y + 30]
        annotations.append({"image_id": number, "segmentation": [polygon], "area": 1200, "iscrowd": 0})
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


@pytest.fixture
def tiny(coco, tmp_path, monkeypatch) -> ClickNanoConfig:
    # The ImageNet package is for trainings alone: random weights serve here
    monkeypatch.setattr(recipe, "imagenet_weights", lambda encoder: encoder.state_dict())
    return ClickNanoConfig(
        coco=coco, out=tmp_path / "run", minutes=None, iterations=4, batch=2, crop=64, workers=0, log_every=1
    )


def test_a_resumed_run_equals_an_uninterrupted_one(tiny, tmp_path):
    check_resumed_equals_whole(train, tiny, tmp_path / "halves")
    assert create_model("click_nano", tiny.out / "weights.safetensors").encoder.channels == [24, 40, 112, 320]


def test_what_images_share_stays_as_imagenet_taught_it(tiny):
    model = click_nano()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = recipe.parts_to_train(model, tiny)
    learned = {id(p) for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    names = {name for name, p in model.named_parameters() if id(p) not in learned}
    assert names == {n for n in before if n.startswith(("encoder.stem", "encoder.stages.0.", "encoder.stages.1."))}


def test_a_few_steps_on_the_same_samples_bring_the_loss_down(tiny):
    torch.manual_seed(0)
    samples = recipe.Samples(tiny)
    images, masks, planes = recipe.collate([samples[i] for i in range(2)])
    model = click_nano()
    optimizer = torch.optim.AdamW(recipe.parts_to_train(model, tiny), lr=1e-3)
    losses = []
    for _ in range(12):
        loss, parts = recipe.step_loss(model, images.float() / 255, masks, planes, tiny)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(parts["loss"])
    assert losses[-1] < 0.8 * losses[0]


def test_first_prompts_are_on_the_object():
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 20:70] = 1
    kinds = set()
    for seed in range(60):
        points, box, before = first_prompts(np.random.default_rng(seed), mask)
        assert points or box is not None
        kinds.add((bool(points), box is not None, before is not None))
        for x, y, sign in points:
            assert bool(mask[int(y), int(x)]) == (sign > 0)
        if box is not None:
            assert np.allclose(box, (20, 30, 70, 60), atol=10)
    assert {(True, False, False), (False, True, False), (True, True, False)} <= kinds
    assert any(before for _, _, before in kinds)


def test_samples_show_their_object(tiny):
    drawn = PromptedObjects([[(np.zeros((90, 90, 3), np.uint8), np.ones((90, 90), np.uint8))]])
    sample = drawn.draw(np.random.default_rng(0), size=64)
    assert sample.mask.sum() > 0.004 * 64 * 64
    with pytest.raises(InputError, match="no images to draw from"):
        PromptedObjects([[]])
    with pytest.raises(InputError, match="20 draws gave nothing to train on: they showed no object"):
        PromptedObjects([[(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.uint8))]]).draw(np.random.default_rng(0))


def test_settings_that_make_no_training_are_refused():
    with pytest.raises(InputError, match="batch 3 cannot be shared by 2 replicas"):
        ClickNanoConfig(batch=3)
    with pytest.raises(InputError, match="crop is 100 pixels"):
        ClickNanoConfig(crop=100)
    with pytest.raises(InputError, match="give one and set the other to None"):
        ClickNanoConfig(iterations=4)
