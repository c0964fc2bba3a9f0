"""One seed for every generator of a process."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed Python, numpy and torch (all devices); processes of one run differ by their rank.

    Samples should not draw from these generators but from one of their own, made from (seed, epoch, index),
    so that neither worker count nor order changes what is drawn.
    """
    mixed = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
