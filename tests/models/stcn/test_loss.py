import numpy as np
import pytest
import torch

from twospeed.models.stcn.loss import bootstrapped_cross_entropy, kept_fraction

ITERATIONS = [0, 19_999, 20_000, 45_000, 70_000, 70_001, 100_000]


def test_the_kept_fraction_follows_the_authors_schedule(golden):
    recorded = golden("vos/stcn_train_forward").outputs["top_p"]
    np.testing.assert_allclose([kept_fraction(i) for i in ITERATIONS], recorded, atol=1e-7)


def by_hand(logits, labels, keep):
    """Cross entropy of one sample in numpy: logits (C, H, W), labels (H, W)."""
    logits = logits.astype(np.float64)
    log_sum = np.log(np.exp(logits).sum(0))
    pixels = log_sum - np.take_along_axis(logits, labels[None], 0)[0]
    hardest = np.sort(pixels.ravel())[::-1][: int(pixels.size * keep)]
    return hardest.mean()


@pytest.mark.parametrize("keep", [1.0, 0.575, 0.15])
def test_the_hardest_pixels_of_each_sample_are_averaged(keep):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 3, 9, 11)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 9, 11))
    labels[1][labels[1] == 2] = 0
    expected = (by_hand(logits[0], labels[0], keep) + by_hand(logits[1, :2], labels[1], keep)) / 2
    loss = bootstrapped_cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), [2, 1], keep=keep)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_an_absent_second_object_has_no_say():
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    bootstrapped_cross_entropy(logits, torch.ones(1, 8, 8, dtype=torch.uint8), [1], keep=0.5).backward()
    assert logits.grad is not None
    assert not logits.grad[:, 2].any()
    assert logits.grad[:, :2].any()


def test_easy_pixels_get_no_gradient():
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0] = torch.tensor([5.0, 4.0, -4.0, -5.0])  # the background is right, right, wrong, wrong
    logits.requires_grad_()
    bootstrapped_cross_entropy(logits, torch.zeros(1, 1, 4, dtype=torch.long), [1], keep=0.5).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0].bool().tolist() == [False, False, True, True]
