"""How networks with a memory of masks are trained: objects are followed from a short clip's first frame on.

Source: Cheng 2021, section 3.4 and the authors' code; STM (Oh 2019) section 3.3.
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
        self, frames: Tensor, masks: Tensor, present: Tensor, cells: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Follow the objects of frame 0.

        Shapes: frames float (B, T, 3, H, W) in 0..1, masks float (B, K, H, W) of frame 0, present (B, K), 0 where there
        is no k-th object -> log odds (B, T - 1, K + 1, H, W) of frames 1.., background first.

        cells: the true masks at stride 16, (B, T, K, h, w). With them, also what the keys alone recall of them,
        (B, T - 1, K, h, w): to train matching directly, even while the decoder is still poor.
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
                readout = network.recall_recent(readout, features[t].key, features[t - 1].key, masks)
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


def propagation_loss(log_odds: Tensor, labels: Tensor, objects: Sequence[int], *, keep: float) -> Tensor:
    """Return the loss of both followed frames, summed: (B, T - 1, K + 1, H, W), labels (B, T, H, W) -> scalar."""
    losses = [
        bootstrapped_cross_entropy(log_odds[:, t], labels[:, t + 1], objects, keep=keep)
        for t in range(log_odds.shape[1])
    ]
    return torch.stack(losses).sum()
