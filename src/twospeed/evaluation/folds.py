"""Which clips are left out together when a network is judged on clips that it was not trained on.

K-fold cross-validation: every clip is left out once, by class as evenly as possible. Clips that were cut from one video
look alike in all but what happens, so that where names say so they are left out together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# UCF-101's v_Class_g01_c03, Kinetics' ID_000010_000020, and names such as garden_part2
_PIECES = (
    re.compile(r"(.+_g[0-9]+)_c[0-9]+"),
    re.compile(r"(.+)_[0-9]{6}_[0-9]{6}"),
    re.compile(r"(.+?)[-_ ](?:clip|part|piece|scene|seg|segment|shot)[-_ ]?[0-9]+", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class Folds:
    """of: the fold that leaves each clip out, 0 to count - 1. by_source: whether clips of one source are together.
    shared: whether clips of one source are in several folds, since a class has a single source."""

    of: list[int]
    count: int
    by_source: bool
    shared: bool


def source_of(path: Path) -> str:
    """Return the name of the video that a clip was cut from, as far as its own name says so, else its own."""
    for pattern in _PIECES:
        if match := pattern.fullmatch(path.stem):
            return match[1]
    return str(path)


def leave_out(labels: Sequence[int], sources: Sequence[str], most: int, *, seed: int = 0) -> Folds:
    """Share clips between `most` folds, or as many as the class with the fewest sources allows, at least two.

    labels, sources: of every clip. Where a class has one source alone, single clips are left out.
    """
    by_class: dict[int, set[str]] = {}
    for label, source in zip(labels, sources, strict=True):
        by_class.setdefault(label, set()).add(source)
    together = len(set(sources)) < len(sources)
    apart = min(map(len, by_class.values())) < 2
    keys = [str(place) for place in range(len(labels))] if apart else list(sources)
    members: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    per_class = [len({key for key, label in zip(keys, labels, strict=True) if label == own}) for own in by_class]
    count = max(2, min(most, *per_class))
    filled = np.zeros((count, max(labels) + 1), np.int64)
    of = [0] * len(labels)
    order = np.random.default_rng(seed).permutation(len(members))
    groups = [list(members.values())[number] for number in order]
    for group in sorted(groups, key=len, reverse=True):  # large ones first: the others even it out
        own = [labels[place] for place in group]
        fold = min(range(count), key=lambda f: (filled[f, own].sum(), filled[f].sum()))
        for place in group:
            of[place] = fold
            filled[fold, labels[place]] += 1
    return Folds(of, count, by_source=together and not apart, shared=together and apart)


def interval(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share of hits (Wilson's, which holds for few clips, too)."""
    z = 1.96
    share, spread = hits / count, z / count
    middle = share + z * spread / 2
    half = spread * float(np.sqrt(hits * (1 - share) + z**2 / 4))
    scale = 1 + z * spread
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
