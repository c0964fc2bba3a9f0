"""ThreadedReplicas: shares of a batch give the whole batch's gradient, and averages move as they should."""

from __future__ import annotations

import copy

import torch
from torch import nn

from twospeed.training.replicas import ThreadedReplicas, move_average


def test_lanes_gather_the_gradient_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))
    alone = copy.deepcopy(model)
    x = torch.randn(6, 5)
    expected = alone(x).square().mean()
    expected.backward()

    threaded = ThreadedReplicas(model, 3)

    def work(replica: nn.Module, lane: int) -> tuple[torch.Tensor, dict[str, float]]:
        loss = replica(x[lane::3]).square().mean()
        return loss, {"loss": float(loss.detach())}

    parts = threaded.backward(work)
    for mine, whole in zip(model.parameters(), alone.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, whole.grad)
    torch.testing.assert_close(parts["loss"], expected.item(), atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        model[0].weight.zero_()  # replicas see a step at once: they share the storage
    assert all(not replica[0].weight.any() for replica in threaded.replicas)
    threaded.close()


def test_statistics_are_shared_when_asked() -> None:
    model = nn.BatchNorm2d(3)
    threaded = ThreadedReplicas(model, 2)
    threaded.backward(lambda replica, lane: (replica(torch.randn(4, 3, 5, 5) + lane).sum(), {}))
    assert not torch.equal(threaded.replicas[0].running_mean, threaded.replicas[1].running_mean)
    threaded.share_statistics()
    assert torch.equal(threaded.replicas[0].running_mean, threaded.replicas[1].running_mean)
    threaded.close()


def test_averages_move_towards_weights_and_copy_statistics() -> None:
    model, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(5.0)
    move_average(average, model, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [5.0, 5.0]
