"""The propagation's training step: what is compared, where the gradient goes, what stays frozen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from twospeed import InputError
from twospeed.models.flow.network import FlowLight
from twospeed.models.gsv.loss import (
    cross_entropy,
    divergence,
    freeze_keyframe_network,
    propagation_loss,
    roll_out,
    teacher_scores,
)
from twospeed.models.gsv.network import GSVNet


def small_network(**options) -> GSVNet:
    """Four classes, a keyframe network with a parameter and a norm of its own."""
    torch.manual_seed(0)
    keyframe = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, 4, 1))
    return GSVNet(keyframe, FlowLight(8), 4, width=8, keyframe_scale=1.0, **options)


def clip(frames: int, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, frames, 3, *size), dtype=torch.uint8)


def test_a_roll_out_is_what_a_stream_gives():
    model, frames = small_network().eval(), clip(4)
    path = roll_out(model, frames)
    assert len(path) == 4
    with torch.inference_mode():
        scores = model.keyframe(frames[:, 0].float())
        assert torch.equal(path[0], scores)
        for t in (1, 2, 3):
            scores = model.propagate(scores, frames[:, t - 1].float(), frames[:, t].float())
            torch.testing.assert_close(path[t], scores, atol=1e-5, rtol=1e-5)
    assert torch.equal(roll_out(model, frames[:, 1:], keyframe_scores=path[1])[0], path[1])


def test_the_keyframe_network_stays_as_it_is():
    model, frames = freeze_keyframe_network(small_network()), clip(3)
    before = {name: value.clone() for name, value in model.keyframe_network.state_dict().items()}
    scores = roll_out(model, frames)[-1]
    propagation_loss(scores, torch.zeros(2, 64, 96)).total.backward()
    assert all(p.grad is None for p in model.keyframe_network.parameters())
    assert all(torch.equal(v, before[name]) for name, v in model.keyframe_network.state_dict().items())
    assert model.flow_network.predict.weight.grad.abs().sum() > 0
    assert model.guide.encode.norm.num_batches_tracked == 2


def test_only_the_last_steps_are_trained():
    model, frames = freeze_keyframe_network(small_network()), clip(5)
    free = roll_out(model, frames, gradient_steps=2)
    assert [scores.requires_grad for scores in free] == [False, False, False, True, True]
    assert model.guide.encode.norm.num_batches_tracked == 2  # earlier steps run in eval mode
    assert model.guide.training
    assert not model.keyframe_network.training
    model.eval()
    used = roll_out(model, frames[:, :3])[-1]
    freeze_keyframe_network(model)
    torch.testing.assert_close(roll_out(model, frames, gradient_steps=2)[2], used)
    assert all(s.requires_grad for s in roll_out(model, frames, gradient_steps=9)[1:])


def test_cross_entropy_by_hand():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (2, 3, 4, 5))
    labels = rng.integers(-1, 5, (2, 4, 5))  # -1, 3 and 4 are void
    weights = np.array([1.0, 2.5, 0.25])
    counted = (labels >= 0) & (labels < 3)
    log_sum = np.log(np.exp(scores).sum(1))
    chosen = np.take_along_axis(scores, labels.clip(0, 2)[:, None], 1)[:, 0]
    each, weight = (log_sum - chosen)[counted], weights[labels[counted]]
    tensors = torch.from_numpy(scores).float(), torch.from_numpy(labels)
    assert float(cross_entropy(*tensors)) == pytest.approx(each.mean(), rel=1e-5)
    expected = (each * weight).sum() / weight.sum()
    assert float(cross_entropy(*tensors, torch.from_numpy(weights).float())) == pytest.approx(expected, rel=1e-5)


def test_labels_may_be_larger_than_scores_and_eight_bit():
    scores = torch.zeros(1, 3, 4, 4)
    scores[:, 1] = 50
    assert float(cross_entropy(scores, torch.full((1, 33, 30), 1, dtype=torch.uint8))) == pytest.approx(0, abs=1e-5)
    assert float(cross_entropy(scores, torch.full((1, 33, 30), 2, dtype=torch.uint8))) == pytest.approx(50)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0, 4.0])])
def test_void_alone_teaches_nothing(weights):
    model = freeze_keyframe_network(small_network())
    loss = propagation_loss(roll_out(model, clip(2))[-1], torch.full((2, 64, 96), 255), class_weights=weights)
    loss.total.backward()
    assert float(loss.total.detach()) == 0
    assert all(not p.grad.any() for p in model.guide.parameters())


def test_divergence_is_zero_from_oneself_and_counts_all_elements():
    scores, teacher = torch.randn(2, 1, 3, 4, 4)
    assert float(divergence(scores, scores, (8, 8))) == pytest.approx(0, abs=1e-7)
    p, q = teacher.softmax(1), scores.softmax(1)
    by_hand = (p * (p.log() - q.log())).sum() / p.numel()
    assert float(divergence(scores, teacher, (4, 4))) == pytest.approx(float(by_hand), rel=1e-4)


def test_the_released_loss_weighs_its_parts():
    scores, teacher, labels = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 16, 16), torch.randint(0, 3, (1, 8, 8))
    loss = propagation_loss(scores, labels, teacher=teacher, teacher_weight=10, factor=10)
    torch.testing.assert_close(loss.total, 10 * (loss.cross_entropy + 10 * loss.divergence))
    paper = propagation_loss(scores, labels)
    assert (
        paper.total
        == paper.cross_entropy
        == F.cross_entropy(F.interpolate(scores, (8, 8), mode="bilinear", align_corners=True), labels)
    )
    assert paper.divergence == 0


def test_the_teacher_sees_the_image_at_full_size():
    model = small_network()
    assert teacher_scores(model.eval(), clip(1)[:, 0]).shape == (2, 4, 16, 24)
    assert not teacher_scores(model, clip(1)[:, 0]).requires_grad


def test_training_follows_what_moves():
    """A pattern shifts by a cell a frame: after training, propagated labels fit better than stale ones."""
    torch.manual_seed(3)
    model = freeze_keyframe_network(small_network())
    base = F.interpolate(torch.rand(1, 3, 5, 9), (80, 128), mode="bicubic").clamp(0, 1) * 255
    frames = torch.stack([base[..., 8 * t : 8 * t + 64] for t in range(3)], 1)
    with torch.no_grad():
        truth = teacher_scores(model, frames[:, 2])
        labels = F.interpolate(truth, (80, 64), mode="bilinear", align_corners=True).argmax(1)
        key = model.keyframe(frames[:, 0])
    stale = float(cross_entropy(key, labels))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, 6e-3)
    for _ in range(15):
        optimizer.zero_grad()
        loss = propagation_loss(roll_out(model, frames, keyframe_scores=key)[-1], labels).total
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.9 * stale


def test_bad_input_is_one_clear_line():
    model = small_network()
    with pytest.raises(InputError, match=r"frames are \(3, 64, 64\); expected \(N, T, 3, H, W\)"):
        roll_out(model, torch.zeros(3, 64, 64))
    with pytest.raises(InputError, match="gradient_steps is 0; give 1 or more"):
        roll_out(model, clip(2), gradient_steps=0)
