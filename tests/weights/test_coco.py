"""A detector starts from torchvision's COCO file: found, given by hand, or one line that says how."""

from __future__ import annotations

import pytest
import torch

from twospeed import CheckpointError, WeightsUnavailable
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN
from twospeed.weights import coco

TINY = {"backbone": "nano", "pyramid_channels": 8}


def build(seed: int) -> SlowFastMaskRCNN:
    torch.manual_seed(seed)
    return SlowFastMaskRCNN(1, 1, **TINY)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """A detector in torchvision's names, with predictors of 91 classes."""
    given = {k.removeprefix("detector."): v for k, v in build(1).state_dict().items() if k.startswith("detector.")}
    given["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(91, 32)
    given["roi_heads.mask_predictor.mask_fcn_logits.weight"] = torch.zeros(91, 8, 1, 1)
    return given


def test_all_but_the_classes_is_taken(state, tmp_path):
    torch.save(state, tmp_path / "coco.pth")
    model, fresh = build(2), build(2).state_dict()
    assert coco.start_from_coco(model, tmp_path / "coco.pth") == tmp_path / "coco.pth"
    for name, value in model.state_dict().items():
        ours = name.startswith("slow_fast.") or "_predictor." in name
        assert torch.equal(value, fresh[name] if ours else state[name.removeprefix("detector.")]), name


def test_torchs_own_cache_is_looked_at_first(state, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / coco.COCO.file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert coco.start_from_coco(build(2)) == tmp_path / "checkpoints" / coco.COCO.file


def test_offline_one_line_says_how_to_give_the_file(tmp_path, monkeypatch):
    def fetch(url, path, *_):
        raise WeightsUnavailable(f"cannot reach {url} (no route); fetch it elsewhere and put it at {path}")

    monkeypatch.setattr(coco.store, "_fetch", fetch)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("TWOSPEED_CACHE", str(tmp_path))
    with pytest.raises(WeightsUnavailable, match=r"put it at .*, or give its path; 'none' starts without") as error:
        coco.start_from_coco(build(2))
    assert error.value.option == "coco"
    assert "\n" not in str(error.value)


def test_another_network_is_refused_by_name(state, tmp_path):
    del state["rpn.head.cls_logits.weight"]
    state["backbone.body.conv1.weight"] = torch.zeros(64, 3, 7, 7)
    state["classifier.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit torchvision's Mask R-CNN") as error:
        coco.start_from_coco(build(2), tmp_path / "other.pth")
    for wanted in (
        "1 missing: detector.rpn.head.cls_logits.weight", "1 unknown: detector.classifier.weight",
        "1 mis-shaped: detector.backbone.body.conv1.weight (64, 3, 7, 7) where ",
    ):  # fmt: skip
        assert wanted in str(error.value)
