"""Training: targets from label maps, losses that are finite and fall, parts that stay as they are to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from twospeed import InputError, create_model
from twospeed.data.clips.synthetic import render_clip
from twospeed.models.slowfast_maskrcnn.loss import (
    PARTS,
    encode_stretch,
    image_losses,
    target_of,
    train_parts,
    window_losses,
)
from twospeed.models.slowfast_maskrcnn.network import SlowFastMaskRCNN

SIZE = (64, 96)
TINY = {
    "backbone": "nano",
    "pyramid_channels": 8,
    "min_size": 64,
    "max_size": 96,
    "proposals": 20,
    "sampled_regions": 16,
}


def network(slow: int = 1, fast: int = 3) -> SlowFastMaskRCNN:
    torch.manual_seed(0)
    return SlowFastMaskRCNN(slow, fast, **TINY)


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    """Frames float (5, 3, H, W) and their labels uint8 (5, H, W)."""
    pairs = list(render_clip(1, frames=5, height=SIZE[0], width=SIZE[1], objects=2))
    frames = torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2).float() / 255
    return frames, torch.from_numpy(np.stack([labels for _, labels in pairs]))


def test_a_label_map_becomes_boxes_and_masks():
    labels = torch.zeros(20, 30, dtype=torch.uint8)
    labels[3:9, 5:16] = 4
    labels[12, 2:20] = 7  # one pixel high: no box has this area
    labels[15:, 20:] = 255  # void
    target = target_of(labels)
    assert target["boxes"].tolist() == [[5, 3, 16, 9]]
    assert target["labels"].tolist() == [1]
    assert torch.equal(target["masks"][0].bool(), labels == 4)
    nothing = target_of(torch.zeros_like(labels))
    assert (nothing["boxes"].shape, nothing["masks"].shape) == ((0, 4), (0, 20, 30))


def test_losses_of_windows_are_finite_and_fall(clip):
    frames, labels = clip
    model = network()
    train_parts(model, PARTS)
    targets = [target_of(labels[t]) for t in (1, 2, 3)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(12):
        losses = window_losses(model, encode_stretch(model, frames), targets)
        assert set(losses) == {
            "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"
        }  # fmt: skip
        total = sum(losses.values())
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(float(total.detach()))
    assert np.mean(history[-3:]) < 0.8 * history[0]


def test_losses_of_several_windows_add_up(clip):
    """The report's training: backward for each frame, a step after two."""
    frames, labels = clip
    model = network()
    train_parts(model, ("detector.roi_heads", "slow_fast"), update_norm=False)
    targets = [target_of(labels[t]) for t in (1, 2)]
    features = encode_stretch(model, frames[:4])
    torch.manual_seed(1)
    both = window_losses(model, features, targets)
    torch.manual_seed(1)
    each = [window_losses(model, features.between(t, t + 3), targets[t : t + 1]) for t in (0, 1)]
    for name, value in both.items():
        torch.testing.assert_close(value, each[0][name] + each[1][name], rtol=1e-4, atol=1e-5)


def test_losses_of_single_frames_take_any_sizes_and_frames_without_objects(clip):
    frames, labels = clip
    model = network().train()
    blank = target_of(torch.zeros(40, 40, dtype=torch.uint8))
    losses = image_losses(model, [frames[0], frames[1, :, :40, :40]], [target_of(labels[0]), blank])
    assert all(torch.isfinite(value) for value in losses.values())
    train_parts(model, PARTS)
    empty = [target_of(torch.zeros_like(labels[0]))]
    losses = window_losses(model, encode_stretch(model, frames[:3]), empty)
    assert all(torch.isfinite(value) for value in losses.values())
    assert float(losses["loss_mask"].detach()) == 0


@pytest.mark.parametrize(
    "learning", [("detector.roi_heads", "slow_fast"), ("detector.backbone", "detector.rpn", "detector.roi_heads")]
)
@pytest.mark.parametrize("update_norm", [True, False])
def test_what_is_frozen_stays_to_the_bit(clip, learning, update_norm):
    frames, labels = clip
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_parts(model, learning, update_norm=update_norm)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(2):
        losses = window_losses(model, encode_stretch(model, frames[:3]), [target_of(labels[1])])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    for part in PARTS:
        of_part = {name for name in changed if name.startswith(part)}
        assert bool(of_part) == (part in learning), part
    assert any(name.endswith(statistics) for name in changed) == update_norm


def test_frames_outside_the_video_are_features_of_zero(clip):
    frames, _ = clip
    model = network().eval()
    inside = torch.tensor([False, True, True, True, False])
    with torch.no_grad():
        masked, plain = encode_stretch(model, frames, inside), encode_stretch(model, frames)
        for name, level in masked.pyramid.items():
            assert not level[~inside].any()
            assert torch.equal(level[inside], plain.pyramid[name][inside])
        # The first window of the stretch is what a video that begins there gives
        found = [model.encode(frame) for frame in frames[1:3]]
        enhanced = model.enhance([None, *found])
        window = masked.between(0, 3)
        for name, level in window.pyramid.items():
            stretch = model.slow_fast(level.transpose(0, 1)[None])[0].transpose(0, 1)
            torch.testing.assert_close(stretch, enhanced[name], rtol=1e-4, atol=1e-5)


def test_the_published_backbone_keeps_its_first_stage():
    with torch.device("meta"):
        model = create_model("slowfast_maskrcnn_1_1", None)
    train_parts(model, PARTS)
    frozen = {name.split(".")[3] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    train_parts(model, ["slow_fast"])
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"slow_fast"}


def test_windows_and_targets_must_agree(clip):
    frames, labels = clip
    model = network()
    train_parts(model, PARTS)
    with pytest.raises(ValueError, match="1 targets for 3 windows of 3 frames"):
        window_losses(model, encode_stretch(model, frames), [target_of(labels[1])])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "backbone is 'vgg'; choose resnet50 or nano"),
        ({"backbone": "nano", "frozen_batch_norm": True}, "trainable batch norm only"),
        ({"backbone": "nano", "pyramid_channels": 20}, "20 channels cannot be shared"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        create_model("slowfast_maskrcnn_1_1", None, **options)
