"""How networks with a memory of masks are trained: objects are followed from a short clip's first frame on.

Source: STCN's supplement (Cheng 2021), section F, and the authors' code; STM (Oh 2019) is trained alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twospeed.models.memory import read_memory
from twospeed.models.protocol import MaskMemoryNetwork, sees_last_frame
from twospeed.models.stcn.loss import bootstrapped_cross_entropy
from twospeed.ops.masks import soft_aggregate


class UnrolledPropagation(nn.Module):
    """A network as it is trained: frame 1 is segmented from frame 0, frame 2 from 0 and 1 with its prediction."""

    def __init__(self, network: MaskMemoryNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        frames: Tensor,
        masks: Tensor,
        present: Tensor,
        cells: Tensor | None = None,
        spoiling: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Follow the objects of frame 0.

        Shapes: frames float (B, T, 3, H, W) in 0..1, masks float (B, K, H, W) of frame 0, present (B, K), 0 where there
        is no k-th object -> log odds (B, T - 1, K + 1, H, W) of frames 1.., background first.

        cells: the true masks at stride 16, (B, T, K, h, w). With them, also what the keys alone recall of them,
        (B, T - 1, K, h, w): to train matching directly, even while the decoder is still poor.
        spoiling: (B, T - 1, 4), what `spoiled` makes of the frame before for networks that see it; None: nothing.
        """
        network = self.network
        B, T = frames.shape[:2]
        images = network.normalise(frames)
        together = network.encode_key(images.flatten(0, 1))
        features = [type(together)(*(x.unflatten(0, (B, T))[:, t] for x in together)) for t in range(T)]
        keys: list[Tensor] = []
        values: list[Tensor] = []
        answers, recalled = [], []
        for t in range(1, T):
            key, value = network.encode_memory(images[:, t - 1], features[t - 1], masks)
            keys.append(key.flatten(-2))
            if cells is not None:  # travel through the memory as one more channel
                value = torch.cat([value, cells[:, t - 1].unsqueeze(2).to(value.dtype)], 2)
            values.append(value.flatten(-2))
            readout = self._recall(features[t].key, torch.cat(keys, -1), torch.cat(values, -1))
            if cells is not None:
                readout, plane = readout[:, :, :-1], readout[:, :, -1]
                recalled.append(plane)
            if sees_last_frame(network):
                last = masks if spoiling is None else spoiled(masks, spoiling[:, t - 1])
                readout = network.recall_recent(readout, features[t].key, features[t - 1].key, last)
            logits = network.decode(readout, features[t])
            # fp32 from here on: the clamp of the odds at 1e-7 would vanish in half precision
            log_odds = soft_aggregate(logits.float().sigmoid() * present[:, :, None, None])
            masks = log_odds.softmax(1)[:, 1:]
            answers.append(log_odds)
        log_odds = torch.stack(answers, 1)
        return log_odds if cells is None else (log_odds, torch.stack(recalled, 1))

    def _recall(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Read the whole memory. Shapes: (B, C, h, w), (B[, K], C, N), (B, K, V, N) -> (B, K, V, h, w)."""
        similarity = self.network.similarity
        if keys.ndim == 3:
            return read_memory(query, keys, values, similarity=similarity)
        B, K = keys.shape[:2]  # each object has keys of its own: objects take the place of samples
        own = values.flatten(0, 1).unsqueeze(1)  # (BK, 1, V, N)
        readout = read_memory(query.repeat_interleave(K, 0), keys.flatten(0, 1), own, similarity=similarity)
        return readout.squeeze(1).unflatten(0, (B, K))


def spoiled(masks: Tensor, draws: Tensor) -> Tensor:
    """Damage masks as tracking does, so that a decoder learns to trust the memory where the two disagree.

    Shapes: masks (B, K, H, W), draws (B, 4) in 0..1 -> the same as masks. draws: which damage (below 1/2 lost, else one
    more area that is a shifted copy; 1 and above: none), which object is kept or copied, and the shift.
    """
    K, H, W = masks.shape[1:]
    result = []
    for sample, (kind, which, down, right) in zip(masks, draws.tolist(), strict=True):
        one = min(K - 1, int(which * K))
        if kind < 0.5:  # all are lost, or all but one
            kept = torch.zeros_like(sample)
            if K > 1 and kind < 0.25:
                kept[one] = sample[one]
            sample = kept
        elif kind < 1:
            shift = round((down - 0.5) * H * 2 / 3), round((right - 0.5) * W * 2 / 3)
            free = (1 - sample.sum(0, keepdim=True)).clamp(0, 1)
            moved = sample.roll((*shift, one), (1, 2, 0)) * free
            sample = torch.maximum(sample, moved)
        result.append(sample)
    return torch.stack(result)


def propagation_loss(log_odds: Tensor, labels: Tensor, objects: Sequence[int], *, keep: float) -> Tensor:
    """Return the loss of both followed frames, summed: (B, T - 1, K + 1, H, W), labels (B, T, H, W) -> scalar."""
    losses = [
        bootstrapped_cross_entropy(log_odds[:, t], labels[:, t + 1], objects, keep=keep)
        for t in range(log_odds.shape[1])
    ]
    return torch.stack(losses).sum()
