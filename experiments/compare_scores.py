"""How much better one run of `twospeed evaluate` is than another, sequence by sequence, and how sure that is.

    python -m experiments.compare_scores A.json B.json [--score J&F-Mean]

A.json and B.json are what `evaluate davis16 --json` (or davis17) wrote. Prints the mean of each over the sequences
that both have, the mean difference, and its 95 % interval: the sequences drawn again 20,000 times, with replacement.
How much another training seed would change is not in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DRAWS = 20_000


def scores(path: Path, score: str) -> dict[str, float]:
    """Return the score of each sequence."""
    return {name: values[score] for name, values in json.loads(path.read_text())["sequences"].items()}


def interval(differences: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean by the bootstrap over sequences."""
    drawn = np.random.default_rng(seed).integers(0, len(differences), (DRAWS, len(differences)))
    low, high = np.percentile(differences[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Compare two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs=2, metavar="JSON")
    parser.add_argument("--score", default="J&F-Mean")
    options = parser.parse_args()
    a, b = (scores(path, options.score) for path in options.runs)
    names = sorted(a.keys() & b.keys())
    if not names:
        raise SystemExit(f"{options.runs[0]} and {options.runs[1]} have no sequence in common")
    ours, theirs = (np.array([of[name] for name in names]) for of in (a, b))
    difference = ours - theirs
    low, high = interval(difference)
    means = f"{ours.mean():.3f}, {theirs.mean():.3f}"
    print(f"{len(names)} sequences: {means}; {difference.mean():+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
