"""The small SwiftNet: its grid spans images of any size, and the losses measure what they say."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from twospeed.models.optimise import optimise
from twospeed.models.swiftnet.builders import swiftnet_nano
from twospeed.models.swiftnet.loss import class_weights, cross_entropy, soft_jaccard


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [
    (360, 480, 11, 15), (97, 130, 3, 4), (40, 33, 1, 1), (8, 8, 1, 1), (500, 20, 16, 1),
])  # fmt: skip
@torch.inference_mode()
def test_any_image_is_labelled_on_a_grid_of_a_quarter(height: int, width: int, rows: int, columns: int) -> None:
    network = swiftnet_nano(5).eval()
    image = torch.rand(1, 3, height, width) * 255
    assert network.scores(image).shape == (1, 5, 8 * rows + 1, 8 * columns + 1)
    assert network(image).shape == (1, 5, height, width)


@torch.inference_mode()
def test_features_share_their_corners() -> None:
    """What changes in the image's last corner changes the last corner of every feature most."""
    torch.manual_seed(0)
    network = swiftnet_nano(3).eval()
    image = torch.rand(1, 3, 32 * 5 + 1, 32 * 7 + 1) * 255
    for corner in ((slice(-9, None), slice(-9, None)), (slice(0, 9), slice(0, 9))):
        other = image.clone()
        other[..., corner[0], corner[1]] = 255 - other[..., corner[0], corner[1]]
        for one, two, stride in zip(network.encoder(image), network.encoder(other), (4, 8, 16, 32), strict=True):
            assert one.shape[-2:] == (160 // stride + 1, 224 // stride + 1)
            change = (one - two).abs().sum(1)[0]
            place = divmod(int(change.argmax()), change.shape[1])
            wanted = (0, 0) if corner[0].start == 0 else (160 // stride, 224 // stride)
            assert max(abs(place[0] - wanted[0]), abs(place[1] - wanted[1])) <= 2


@torch.inference_mode()
def test_the_fused_network_gives_the_same_scores() -> None:
    torch.manual_seed(0)
    network = swiftnet_nano(4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    image = torch.rand(1, 3, 120, 160) * 255
    expected = network.eval().scores(image)
    found = optimise(network).scores(image)
    assert (found - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())


def test_class_weights_favour_rare_classes_by_the_power() -> None:
    weights = class_weights(torch.tensor([100, 400, 1600, 0]), 0.5)
    torch.testing.assert_close(weights, torch.tensor([2.0, 1.0, 0.5, 2.0]))
    assert class_weights(torch.tensor([1, 5, 9]), 0.0).tolist() == [1.0, 1.0, 1.0]


def test_cross_entropy_ignores_void_and_weighs_classes() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(2, 4, 6, 7), torch.randint(0, 4, (2, 6, 7))
    void = torch.rand(2, 6, 7) < 0.3
    labels = labels.masked_fill(void, 11)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = F.cross_entropy(scores, labels.masked_fill(void, -100), weights)
    torch.testing.assert_close(cross_entropy(scores, labels, weights), expected)
    assert cross_entropy(scores, torch.full_like(labels, 11), weights).item() == 0


def test_soft_jaccard_is_the_iou_of_certain_scores() -> None:
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 11]]])
    found = torch.tensor([[[0, 1, 1, 1], [0, 0, 1, 0]]])
    scores = 100 * F.one_hot(found, 3).permute(0, 3, 1, 2).float()
    # Class 0: 3 of 4, class 1: 3 of 4; class 2 occurs nowhere; the void pixel does not count
    torch.testing.assert_close(soft_jaccard(scores, labels, smooth=0.0), torch.tensor(0.25))
    assert soft_jaccard(scores, torch.full_like(labels, 11)).item() == 0
