"""The small SwiftNet: its points lie on GSVNet's grid at any size, and the losses measure what they say."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from twospeed.models.swiftnet.builders import swiftnet_nano
from twospeed.models.swiftnet.loss import class_weights, cross_entropy, soft_jaccard


@pytest.mark.parametrize(("height", "width"), [(360, 480), (97, 130), (40, 33), (8, 8)])
def test_scores_have_the_grid_of_any_image(height: int, width: int) -> None:
    network = swiftnet_nano(5).eval()
    image = torch.rand(1, 3, height, width) * 255
    with torch.inference_mode():
        assert network.scores(image).shape == (1, 5, height // 8, width // 8)
        assert network(image).shape == (1, 5, height, width)


def test_grid_points_lie_on_every_eighth_pixel() -> None:
    """What a point of the map at 1/8 sees is centred on its pixel."""
    network = swiftnet_nano(3).eval()
    torch.manual_seed(0)
    image = torch.randn(1, 3, 8 * 24 + 1, 8 * 30 + 1, requires_grad=True)
    finest = network.backbone(image)[1]  # before anything is pooled over the whole image
    assert finest.shape[-2:] == (25, 31)
    for row, column in ((11, 13), (12, 15), (13, 17)):
        grad = torch.autograd.grad(finest[0, :, row, column].sum(), image, retain_graph=True)[0]
        reach = grad[0].abs().sum(0).nonzero()
        middle = (reach.min(0).values + reach.max(0).values) / 2
        assert (middle - torch.tensor([8.0 * row, 8.0 * column])).abs().max() <= 2, "centred but for ReLU's gaps"


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
