"""How GSVNet's propagation is trained: roll it out from a keyframe, compare its scores with a label further on.

Source: GSVNet (Lee, Chen, Peng, ICME 2021), sections 3.4.3 and 4.1, and the released trainer. The paper has cross
entropy alone; the released code weights classes, adds the divergence from the keyframe network's own scores of the
labelled frame, and sends the gradient through the last two steps only. Both are options here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from twospeed.errors import InputError
from twospeed.models.gsv.network import GSVNet, resize

_IGNORED = -100


class PropagationLoss(NamedTuple):
    """Scalars: what is minimised, and its two parts before they are weighted."""

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def freeze_keyframe_network(model: GSVNet) -> GSVNet:
    """Bring a model into training mode but for its keyframe network, which gets no gradient and keeps its statistics.

    Returns the same model. Call it again after every `eval()`.
    """
    model.train()
    model.keyframe_network.eval().requires_grad_(False)
    return model


@torch.no_grad()
def start_from_holding(model: GSVNet) -> None:
    """Begin with no motion and kernels that hold what was there, which lets the gradient reach the flow at once.

    Taps are the identity first; all others begin small.
    """
    assert model.guide is not None
    taps = model.guide.predict.norm
    taps.weight.fill_(0.1)
    taps.bias.fill_(0.05)
    taps.bias[0] = 1.0
    predict = model.flow_network.predict
    predict.weight.mul_(0.1)  # type: ignore[operator, union-attr]
    predict.bias.zero_()  # type: ignore[operator, union-attr]


def roll_out(
    model: GSVNet, frames: Tensor, *, gradient_steps: int | None = None, keyframe_scores: Tensor | None = None
) -> list[Tensor]:
    """Propagate from the first of some consecutive frames to the last, as a stream would.

    Shapes: frames RGB 0..255 (N, T, 3, H, W), uint8 or float -> T scores (N, C, h, w), the keyframe's first.
    gradient_steps: only so many last steps are trained; the ones before run as they do in use, in eval mode (the
    released code: 2, the paper says nothing: None, all of them). keyframe_scores: what the keyframe network says of the
    first frame, where that is known. No gradient reaches the keyframe network.
    Raises InputError for frames of another shape and for gradient_steps below 1.
    """
    if frames.ndim != 5 or frames.shape[1] < 1 or frames.shape[2] != 3:
        raise InputError(f"frames are {tuple(frames.shape)}; expected (N, T, 3, H, W)")
    if gradient_steps is not None and gradient_steps < 1:
        raise InputError(f"gradient_steps is {gradient_steps}; give 1 or more, or None for all steps")
    steps = frames.shape[1] - 1
    free = 0 if gradient_steps is None else max(0, steps - gradient_steps)
    with torch.no_grad():
        smalls = [model.small(frame) for frame in frames.unbind(1)]
        scores = model.keyframe(frames[:, 0].float()) if keyframe_scores is None else keyframe_scores
        path, carried = [scores], scores
        if free:
            modes = [(module, module.training) for module in model.modules()]
            model.eval()
            for t in range(1, free + 1):
                step = model.step(carried, smalls[t - 1], smalls[t])
                carried = step.carried
                path.append(step.scores)
            for module, mode in modes:
                module.training = mode
    for t in range(free + 1, steps + 1):
        step = model.step(carried, smalls[t - 1], smalls[t])
        carried = step.carried
        path.append(step.scores)
    return path


def cross_entropy(scores: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy at the size of the labels, scores brought there with aligned corners: a scalar.

    Shapes: scores (N, C, h, w), labels whole numbers (N, H, W); what is no class 0..C-1 is void and does not count.
    class_weights: (C,); the mean is then weighted. 0 where all is void.
    """
    classes = scores.shape[1]
    targets = labels.long()
    counted = (targets >= 0) & (targets < classes)
    targets = targets.masked_fill(~counted, _IGNORED)
    total = F.cross_entropy(resize(scores, labels.shape[-2:]), targets, class_weights, reduction="sum")
    weight = counted.sum() if class_weights is None else class_weights[targets[counted]].sum()
    return total / weight.to(total.dtype).clamp(min=1e-12)


def divergence(scores: Tensor, teacher: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Return the Kullback-Leibler divergence from a teacher's classes, averaged over all elements (N, C, H, W).

    Shapes: scores (N, C, h, w), teacher's scores (N, C, any, any), both before the softmax; size: (H, W) at which they
    are compared. No gradient reaches the teacher.
    """
    target = resize(teacher, size).detach().softmax(1)
    return F.kl_div(resize(scores, size).log_softmax(1), target, reduction="none").mean()


def teacher_scores(model: GSVNet, image: Tensor) -> Tensor:
    """Return what the keyframe network says of an image at full size: RGB 0..255 (N, 3, H, W) -> (N, C, any, any)."""
    network: nn.Module = model.keyframe_network
    with torch.no_grad():
        scores: Tensor = getattr(network, "scores", network)(image.float())
    return scores


def propagation_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    teacher: Tensor | None = None,
    teacher_weight: float = 10.0,
    factor: float = 1.0,
) -> PropagationLoss:
    """Compare propagated scores with labels and, where there is a teacher, with its scores.

    factor * (cross entropy + teacher_weight * divergence). Shapes as in `cross_entropy` and `divergence`. The paper:
    labels alone. The released code: class weights, teacher_weight 10, factor 10.
    """
    entropy = cross_entropy(scores, labels, class_weights)
    apart = scores.new_zeros(()) if teacher is None else divergence(scores, teacher, labels.shape[-2:])
    return PropagationLoss(factor * (entropy + teacher_weight * apart), entropy, apart)
